"""Outlines and masks: the same pixels as pycocotools', and nothing hostile reaches its C code."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_masks

from detsearch.data.masks import RunLengths, decode, encode, read_segmentation, to_coco, to_runs

masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1))
)


def uncompressed(mask: np.ndarray) -> list[int]:
    """By definition: down the columns, outside first."""
    counts, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@given(masks)
def test_encoding_is_pycocotools_and_decoding_its_inverse(mask: np.ndarray) -> None:
    height, width = mask.shape
    runs = encode(mask)
    assert runs.to_coco()["counts"].encode() == coco_masks.encode(np.asfortranarray(mask))["counts"]
    assert torch.equal(decode([runs], (width, height))[0], torch.from_numpy(mask))


@given(masks, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_a_window_is_encoded_as_the_whole_image(mask: np.ndarray, left: int, top: int, right: int, below: int) -> None:
    whole = np.pad(mask, ((top, below), (left, right)))
    assert encode(mask, left, top, whole.shape[::-1]) == encode(whole)


@given(masks, st.data())
def test_every_form_of_run_lengths_is_read_as_the_same_mask(mask: np.ndarray, data: st.DataObject) -> None:
    height, width = mask.shape
    counts = uncompressed(mask)
    for _ in range(data.draw(st.integers(0, 3))):  # a run cut in two by one of no length
        place = data.draw(st.integers(0, len(counts) - 1))
        first = data.draw(st.integers(0, counts[place]))
        counts[place : place + 1] = [first, 0, counts[place] - first]
    packed = coco_masks.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"].decode()
    for form in (counts, packed):
        raw = {"size": [height, width], "counts": form}
        if mask.any():
            assert read_segmentation(raw, width, height) == encode(mask)
        else:
            with pytest.raises(ValueError, match="without a pixel"):
                read_segmentation(raw, width, height)


@given(st.binary(max_size=20).map(lambda raw: bytes(48 + byte % 64 for byte in raw).decode("latin-1")))
def test_any_text_of_counts_is_read_or_refused(counts: str) -> None:
    raw = {"size": [4, 5], "counts": counts}
    try:
        found = read_segmentation(raw, 5, 4)
    except ValueError:
        return
    assert decode([found], (5, 4)).any()


def test_counts_of_large_images_and_differences_that_are_negative() -> None:
    mask = np.zeros((700, 900), dtype=np.uint8)
    mask[650:, :3] = mask[10:40, 100:500] = mask[:, 880:] = 1
    runs = encode(mask)
    assert read_segmentation(runs.to_coco(), 900, 700) == runs


SQUARE = [2, 3, 8, 3, 8, 9, 2, 9]


def test_polygons_are_pycocotools_pixels_and_their_parts_one_mask() -> None:
    raw = [SQUARE, [10, 1, 18, 5.5, 11, 9]]
    outline = read_segmentation(raw, 20, 10)
    assert to_coco(outline) == raw
    expected = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(raw, 10, 20)))
    assert np.array_equal(decode([outline], (20, 10))[0], expected)
    assert to_runs(outline, 20, 10) == encode(expected)


def test_a_stretched_mask_lies_where_the_stretched_image_has_the_object() -> None:
    """Of polygons and of run lengths alike, larger and smaller."""
    polygon = read_segmentation([[10, 4, 30, 4, 30, 24, 10, 24]], 40, 30)
    for size, window in (((80, 30), np.s_[4:24, 20:60]), ((20, 15), np.s_[2:12, 5:15]), ((40, 30), np.s_[4:24, 10:30])):
        expected = np.zeros(size[::-1], dtype=np.uint8)
        expected[window] = 1
        found = decode([polygon, to_runs(polygon, 40, 30)], (40, 30), size)
        assert found.dtype == torch.uint8
        assert np.array_equal(found, np.stack([expected, expected]))


def test_no_objects() -> None:
    assert decode([], (40, 30)).shape == (0, 30, 40)
    assert decode([], (40, 30), (20, 15)).shape == (0, 15, 20)


HOSTILE: dict[str, Any] = {
    "text": "abc",
    "number": 7,
    "numbers, no lists": SQUARE,
    "two points": [[1, 1, 5, 5]],
    "odd": [[1, 1, 5, 5, 3, 3, 2]],
    "no points": [[]],
    "text for a number": [[1, 1, 5, 5, 3, "3"]],
    "bool for a number": [[1, 1, 5, 5, 3, True]],
    "nested": [[[1, 1], [5, 5], [3, 3]]],
    "not a number": [[1, 1, 5, 5, 3, float("nan")]],
    "infinite": [[1, 1, 5, 5, 3, float("inf")]],
    "beyond floats": [[1, 1, 5, 5, 3, 10**400]],
    "far away": [[1, 1, 5, 5, 3, 1e9]],
    "winding": [[0, 0, 39, 29] * 5000],
    "one bad part of many": [SQUARE, SQUARE, [1, 2]],
    "nothing": {},
    "no counts": {"size": [30, 40]},
    "size turned": {"size": [40, 30], "counts": [1200]},
    "size of text": {"size": "30x40", "counts": [1200]},
    "size of another image": {"size": [3000000, 4000000], "counts": [12 * 10**12]},
    "too few pixels": {"size": [30, 40], "counts": [10, 10]},
    "too many pixels": {"size": [30, 40], "counts": [10, 1191]},
    "negative": {"size": [30, 40], "counts": [1210, -10]},
    "beyond integers": {"size": [30, 40], "counts": [10**400, 1200]},
    "sum that wraps": {"size": [30, 40], "counts": [2**63, 2**63, 1200]},
    "fractions": {"size": [30, 40], "counts": [600.0, 600.0]},
    "mixed": {"size": [30, 40], "counts": [600, "x" * 1000]},
    "bools": {"size": [30, 40], "counts": [1199, True]},
    "counts of nothing": {"size": [30, 40], "counts": []},
    "empty text": {"size": [30, 40], "counts": ""},
    "text without end": {"size": [30, 40], "counts": "o" * 100},
    "text that ends early": {"size": [30, 40], "counts": "00o"},
    "characters of no RLE": {"size": [30, 40], "counts": "1 2\x003"},
    "beyond ASCII": {"size": [30, 40], "counts": "ÄÖÜ€"},
    "long number": {"size": [30, 40], "counts": "P" * 60 + "0"},
    "empty": {"size": [30, 40], "counts": [1200]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_wrong_is_said_in_a_line_and_costs_little(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^(RLE|polygons|a polygon|a str,|a int,) .{5,150}$"):
        read_segmentation(HOSTILE[name], 40, 30)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_an_absurd_image_has_no_masks() -> None:
    with pytest.raises(ValueError, match="pixels"):
        read_segmentation({"size": [10**9, 10**9], "counts": [0, 10**18]}, 10**9, 10**9)


@pytest.mark.parametrize("raw", [None, []])
def test_nothing_is_no_outline(raw: object) -> None:
    assert read_segmentation(raw, 40, 30) is None


def test_a_polygon_that_leaves_the_image_is_cut() -> None:
    outline = read_segmentation([[-30, -20, 60, -20, 60, 15, -30, 15]], 40, 30)
    mask = decode([outline], (40, 30))[0]
    assert mask[:15].all()
    assert not mask[15:].any()


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(3, 20),
    st.sampled_from([0.3, 1.0, 4.0]),
)
def test_whatever_polygon_is_read_becomes_pixels(
    seed: int, width: int, height: int, points: int, stretch: float
) -> None:
    """Crossing itself, on the grid or off it, partly outside: pycocotools' own union of its parts."""
    rng = np.random.default_rng(seed)
    raw = [(rng.uniform(-1, 2, (points, 2)) * [width, height]).ravel().tolist() for _ in range(1 + seed % 3)]
    if seed % 2:
        raw = [np.round(part).tolist() for part in raw]
    outline = read_segmentation(raw, width, height)
    size = max(1, round(width * stretch)), max(1, round(height * stretch))
    ratio = np.tile([size[0] / width, size[1] / height], points)
    parts = coco_masks.frPyObjects([(np.array(part) * ratio).tolist() for part in raw], size[1], size[0])
    assert np.array_equal(decode([outline], (width, height), size)[0], coco_masks.decode(coco_masks.merge(parts)))


def test_tiny_coco_to_the_pixel(tiny_coco: Path) -> None:
    content = json.loads((tiny_coco / "annotations" / "instances_val2017.json").read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    kinds = set()
    for item in content["annotations"][:200] + [item for item in content["annotations"] if item["iscrowd"]]:
        width, height = sizes[item["image_id"]]
        raw = item["segmentation"]
        reference = coco_masks.frPyObjects(raw, height, width)
        reference = coco_masks.merge(reference) if isinstance(raw, list) else reference
        outline = read_segmentation(raw, width, height)
        assert to_runs(outline, width, height).counts == reference["counts"]
        kinds.add(type(outline))
    assert kinds == {tuple, RunLengths}
