"""Drawings show boxes where they are, in the class's colour, with a label that stays inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detsearch.data.masks import encode
from detsearch.errors import ResourceError
from detsearch.evaluation.predict import ImagePrediction
from detsearch.report.drawing import (
    OPACITY,
    Answer,
    class_colour,
    draw_boxes,
    draw_predictions,
    draw_samples,
    save_image,
    side_by_side,
)
from tests.data.makers import coco

GREY = torch.full((3, 100, 120), 128, dtype=torch.uint8)


def test_box_is_drawn_on_its_outermost_pixels() -> None:
    drawn = np.array(draw_boxes(GREY, [[30, 40, 70, 90]], [1], ["cat", "dog"]))
    assert (drawn[89, 30:70] == class_colour(1)).all()
    assert (drawn[60:90, 30] == class_colour(1)).all()
    assert (drawn[60:90, 69] == class_colour(1)).all()
    assert (drawn[50:85, 35:65] == 128).all()
    assert (drawn[91:] == 128).all()
    assert (drawn[:, 71:] == 128).all()


def test_masks_are_translucent_and_in_the_colour_of_their_class() -> None:
    mask = np.zeros((100, 120), dtype=np.uint8)
    mask[60:70, 40:50] = 1
    drawn = np.array(draw_boxes(GREY, [[30, 40, 70, 90]] * 2, [1, 0], ["cat", "dog"], masks=[encode(mask), None]))
    expected = 128 + (np.array(class_colour(1)) - 128) * OPACITY
    assert np.abs(drawn[60:70, 40:50] - expected).max() <= 1
    assert (drawn[71:85, 35:65] == 128).all()
    assert (drawn[60:70, 51:65] == 128).all()
    assert (GREY == 128).all()


def test_nothing_to_draw_leaves_the_image() -> None:
    drawn = draw_boxes(GREY, np.zeros((0, 4)), [], [])
    assert (np.array(drawn) == 128).all()
    assert drawn.size == (120, 100)


@pytest.mark.parametrize("box", [[0, 0, 1, 1], [119, 99, 120, 100], [0, 0, 120, 100], [-5, -5, 300, 300]])
def test_label_and_score_stay_inside(box: list[float]) -> None:
    plain = np.array(draw_boxes(GREY, [box], [0], ["a"]))
    scored = np.array(draw_boxes(GREY, [box], [0], ["a"], [0.75]))
    assert (plain == class_colour(0)).all(axis=2).any()
    assert (scored != plain).any()


def test_one_pixel_image() -> None:
    assert draw_boxes(GREY[:, :1, :1], [[0, 0, 1, 1]], [0], ["name"]).size == (1, 1)


def test_neighbouring_classes_look_different() -> None:
    colours = np.array([class_colour(label) for label in range(20)])
    assert np.abs(colours[:, None] - colours[None]).sum(axis=2)[~np.eye(20, dtype=bool)].min() > 20


def test_samples_are_reproducible_files(tmp_path: Path) -> None:
    data = coco(tmp_path)
    paths = draw_samples(data, tmp_path / "out", 5, seed=0)["train"]
    assert [path.name for path in paths] == ["train_7_a.png", "train_9_b.png"]
    with Image.open(paths[0]) as image:
        assert image.size == (40, 30)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [path.name for path in paths]
    assert len(draw_samples(data, tmp_path / "out", 1, seed=0)["train"]) == 1


def answer(title: str, names: list[str], label: int, score: float = 0.9) -> Answer:
    found = ImagePrediction(
        image_id=0,
        boxes=np.array([[30.0, 40.0, 70.0, 90.0]]),
        scores=np.array([score]),
        labels=np.array([label]),
    )
    return Answer(title, found, names)


def test_two_detectors_side_by_side(tmp_path: Path) -> None:
    """Each in a copy of its own; a class of the same name has the same colour, whatever its number."""
    save_image(Image.fromarray(GREY.permute(1, 2, 0).numpy()), tmp_path / "a.png")
    ours, known = answer("ours.pt", ["cat", "dog"], 1), answer("known.pt", ["dog", "horse"], 0)
    drawn = draw_predictions(tmp_path / "a.png", [ours, known], tmp_path / "out", threshold=0.5)
    sheet = np.array(Image.open(drawn))
    assert sheet.shape[1] > 2 * 120
    top = sheet.shape[0] - 100
    left, right = sheet[top:, :120], sheet[top:, -120:]
    assert (left[89, 30:70] == class_colour(1)).all()
    assert (right[89, 30:70] == class_colour(1)).all()
    assert (sheet[:top, :120] < 100).any(), "a title"
    assert (sheet[:top, -120:] < 100).any(), "a title"
    silent = draw_predictions(
        tmp_path / "a.png", [ours, answer("known.pt", ["dog"], 0, 0.4)], tmp_path / "out", threshold=0.5
    )
    assert silent.name == "a-2.png"
    assert (np.array(Image.open(silent))[top:, -120:] == 128).all()


def test_one_detector_alone_keeps_the_size(tmp_path: Path) -> None:
    save_image(Image.fromarray(GREY.permute(1, 2, 0).numpy()), tmp_path / "a.png")
    drawn = draw_predictions(tmp_path / "a.png", [answer("x", ["cat"], 0)], tmp_path, threshold=0.5)
    assert drawn.name == "a-2.png"
    with Image.open(drawn) as image:
        assert image.size == (120, 100)


def test_long_titles_are_cut() -> None:
    sheet = side_by_side([Image.new("RGB", (50, 40), "grey")] * 2, ["runs/a/very/long/path/checkpoint.pt", ""])
    assert sheet.width < 2 * 50 + 10
    assert side_by_side([Image.new("RGB", (1, 1))] * 2, ["a", "b"]).width > 2


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="a folder, or a place to make one"):
        save_image(Image.new("RGB", (2, 2)), tmp_path / "file" / "x.png")
