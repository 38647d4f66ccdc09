"""The synthetic set: reproducible, tight boxes, sizes from tiny to large."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from detsearch.data.dataset import Dataset
from detsearch.data.formats import scenes
from detsearch.data.formats.synthetic import SyntheticFile
from detsearch.data.masks import decode
from detsearch.errors import DataError
from tests.data.makers import datafile


def made(count: int = 40, seed: int = 0, **options: object) -> Dataset:
    return SyntheticFile.model_validate({"splits": {"x": {"images": count, "seed": seed}}} | options).split("x")


def test_depends_on_seed_and_index_alone() -> None:
    few, many, other = made(3, 5), made(6, 5), made(3, 6)
    for one, same, different in zip(few.records, many.records, other.records, strict=False):
        assert np.array_equal(one.boxes, same.boxes)
        assert torch.equal(one.load(), pickle.loads(pickle.dumps(same)).load())  # noqa: S301 (as workers get it)
        assert not torch.equal(one.load(), different.load())


def test_every_record_is_sound_and_sizes_vary() -> None:
    data = made(150)
    area = np.concatenate([record.area for record in data.records])
    labels = np.concatenate([record.labels for record in data.records])
    assert area.min() < 12**2
    assert area.max() > 96**2
    for low, high in ((0, 32**2), (32**2, 96**2)):
        assert ((area >= low) & (area < high)).mean() > 0.2
    assert (np.bincount(labels, minlength=5) > 0.1 * len(labels)).all()
    for record in data.records:
        assert record.load().shape == (3, record.height, record.width) == (3, 192, 256)
        assert (record.boxes[:, :2] >= 0).all()
        assert (record.boxes[:, 2:] <= [256, 192]).all()
        assert (record.area <= (record.boxes[:, 2:] - record.boxes[:, :2]).prod(axis=1)).all()
    assert len({record.path for record in data.records}) == len({record.image_id for record in data.records}) == 150


def test_boxes_are_tight_around_what_is_seen_and_overlaps_have_an_order() -> None:
    style = scenes.Style(tuple(scenes.SHAPES), 120, 90, (6, 12), 8)
    covered = 0
    for index in range(30):
        scene = scenes.compose(style, 0, index)
        for number, (shape, (box, _, area)) in enumerate(zip(scene.shapes, scene.visible(), strict=True)):
            ys, xs = np.nonzero(scene.owner == number)
            assert box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            assert area == len(xs) >= scenes.MIN_VISIBLE * shape.mask.sum()
            covered += area < shape.mask.sum()
    assert covered > 20


def test_masks_are_what_is_seen_to_the_pixel() -> None:
    data = made(12, width=96, height=72, objects=[3, 9])
    assert not data.has_masks
    splits = {"x": {"images": 12, "seed": 0}}
    file = SyntheticFile.model_validate({"splits": splits, "width": 96, "height": 72, "objects": [3, 9]})
    for plain, record in zip(data.records, file.split("x", masks=True).records, strict=True):
        assert np.array_equal(plain.boxes, record.boxes)
        scene = scenes.compose(record.style, record.seed, record.index)  # type: ignore[attr-defined]
        masks = decode(record.segmentations, (96, 72)).numpy()  # type: ignore[arg-type]
        assert len(masks) == len(record.boxes)
        for number, (mask, box) in enumerate(zip(masks, record.boxes, strict=True)):
            assert np.array_equal(mask, scene.owner == number)
            ys, xs = np.nonzero(mask)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert masks.sum(axis=0).max() <= 1  # nobody has the pixels of who lies in front


def test_what_a_box_holds_differs_from_the_ground() -> None:
    """An object whose pixels were moved by one, or never painted, would not be told from the ground."""
    style = scenes.Style(("square",), 96, 96, (1, 1), 40)
    for index in range(10):
        scene = scenes.compose(style, 4, index)
        pixels = scenes.paint(scene, style, 4, index).astype(float)
        inside = scene.owner == 0
        bare = scenes.paint(scenes.Scene((), np.full_like(scene.owner, -1)), style, 4, index).astype(float)
        assert np.abs(pixels - bare).sum(axis=2)[inside].mean() > 60
        assert np.abs(pixels - bare).sum(axis=2)[~inside].mean() < 45  # two draws of the fine noise


@pytest.mark.parametrize("name", scenes.SHAPES)
def test_shapes_fill_their_square_and_differ(name: str) -> None:
    axis = np.linspace(-1, 1, 201, dtype=np.float32)
    masks = {key: inside(axis[None, :], axis[:, None]) for key, inside in scenes.SHAPES.items()}
    mask = masks.pop(name)
    assert mask[0].any()
    assert mask[-1].any()
    assert mask[:, 0].any()
    assert mask[:, -1].any()
    for other in masks.values():
        assert (mask & other).sum() / (mask | other).sum() < 0.85


def test_options() -> None:
    data = made(10, classes=["ring", "circle"], width=64, height=96, objects=[0, 0])
    assert data.classes == ("ring", "circle")
    assert all(len(record.boxes) == 0 for record in data.records)
    assert data.records[0].load().shape == (3, 96, 64)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("classes: [dog]", "classes: expected some of circle, square, triangle, cross, ring, not 'dog'"),
        ("objects: [3, 1]", r"objects: expected \[fewest, most\]"),
        ("objects: [-1, 1]", r"objects\.0"),
        ("width: 8", "width: expected greater than or equal to 32, got 8"),
        ("root: .", "root: expected no such key"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        datafile(tmp_path, f"format: synthetic\n{extra}\nsplits: {{train: {{images: 2, seed: 1}}}}\n")


def test_splits_of_one_file_merge() -> None:
    file = SyntheticFile.model_validate({"splits": {k: {"images": 3, "seed": s} for k, s in (("a", 0), ("b", 1))}})
    merged = file.split("a+b")
    assert len(merged) == 6
    assert len({record.image_id for record in merged.records}) == 6


def test_tinted_classes_are_told_by_their_colour_and_the_ground_is_grey() -> None:
    """The nearest of the classes' mean colours, found on one half of the images, names the objects of the other."""
    data = made(60, classes=["circle", "square", "cross"], objects=[1, 2], min_side=24, tinted=True)
    colours: list[tuple[int, np.ndarray]] = []
    for record in data.records:
        pixels = record.load().numpy().transpose(1, 2, 0).astype(float)
        ground = np.ones(pixels.shape[:2], dtype=bool)
        for box, label in zip(record.boxes.astype(int), record.labels, strict=True):
            x, y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
            colours.append((int(label), pixels[y - 2 : y + 3, x - 2 : x + 3].mean(axis=(0, 1))))
            ground[box[1] : box[3], box[0] : box[2]] = False
        assert np.ptp(pixels[ground].mean(axis=0)) < 40
    half = len(colours) // 2
    means = [np.mean([colour for label, colour in colours[:half] if label == k], axis=0) for k in range(3)]
    right = [np.argmin([np.abs(colour - m).sum() for m in means]) == label for label, colour in colours[half:]]
    assert np.mean(right) > 0.85
