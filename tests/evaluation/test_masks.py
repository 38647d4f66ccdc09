"""Masks in the cells of a box become the pixels that torchvision makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detsearch.data.masks import RunLengths, decode, encode
from detsearch.evaluation.masks import THRESHOLD, paste


@given(
    st.integers(0, 2**32 - 1), st.integers(0, 12), st.sampled_from([1, 7, 28]), st.integers(1, 90), st.integers(1, 90)
)
def test_equals_torchvision_to_the_pixel(seed: int, count: int, cells: int, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 1, (count, 2, 2)) * [width, height]
    if seed % 3 == 0:
        corners = np.round(corners)  # on the grid, and sometimes without area
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    masks = torch.from_numpy(rng.random((count, cells, cells), dtype=np.float32))
    found = paste(masks, boxes, width, height)
    expected = paste_masks_in_image(masks[:, None], torch.from_numpy(boxes), (height, width)) > THRESHOLD
    assert torch.equal(decode(found, (width, height)), expected[:, 0].to(torch.uint8))


@pytest.mark.parametrize("box", [[0, 0, 30, 20], [12, 5, 12, 5], [29.9, 19.9, 30, 20]])
def test_a_full_box_stays_in_its_image(box: list[float]) -> None:
    (found,) = paste(torch.ones(1, 28, 28), np.array([box], np.float64), 30, 20)
    assert (found.width, found.height) == (30, 20)
    mask = decode([found], (30, 20))[0]
    assert mask.any()
    if box[2] - box[0] == 30:
        assert mask.float().mean() > 0.9  # bilinear between cells and zeros rounds the corners


def test_half_precision_is_answered_too() -> None:
    (found,) = paste(torch.ones(1, 28, 28, dtype=torch.bfloat16), np.array([[2.0, 2, 9, 9]]), 30, 20)
    assert found == paste(torch.ones(1, 28, 28), np.array([[2.0, 2, 9, 9]]), 30, 20)[0]


def test_nothing_found() -> None:
    assert paste(torch.zeros(0, 28, 28), np.zeros((0, 4)), 30, 20) == ()
    (empty,) = paste(torch.zeros(1, 28, 28), np.array([[1.0, 1, 9, 9]]), 30, 20)
    assert empty == encode(np.zeros((20, 30), np.bool_)) == RunLengths(30, 20, empty.counts)
