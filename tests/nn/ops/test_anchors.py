from __future__ import annotations

import copy

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from detsearch.nn.ops.anchors import CACHED, RATIOS, Anchors, pyramid_sizes
from detsearch.types import FeatureSpec


def _sizes(strides: tuple[int, ...], scale: float = 4.0) -> list[list[float]]:
    """RetinaNet's, one, 2^(1/3) and 2^(2/3) times the scale; also on a single map."""
    return [[scale * s * 2 ** (k / 3) for k in range(3)] for s in strides]


def _maps(padded: tuple[int, int], strides: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.zeros(2, 1, -(-padded[0] // s), -(-padded[1] // s)) for s in strides]


@pytest.mark.parametrize("padded", [(96, 128), (101, 133), (33, 260), (240, 320), (1, 7)])
@pytest.mark.parametrize("strides", [(8, 16, 32, 64, 128), (4, 64), (32,)])
@pytest.mark.parametrize("scale", [4.0, 3.0, 0.5])
def test_equal_to_torchvisions(padded: tuple[int, int], strides: tuple[int, ...], scale: float) -> None:
    maps = _maps(padded, strides)
    sizes = tuple(tuple(int(scale * s * 2 ** (k / 3)) for k in range(3)) for s in strides)
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(strides))
    expected = generator(ImageList(torch.zeros(2, 3, *padded), [padded, padded]), maps)[0]
    found = Anchors(_sizes(strides, scale))(maps, padded, torch.float32)
    assert torch.equal(found, expected)


def test_published_sizes() -> None:
    """On P3: 32, 40 and 50 pixels, at ratio 1 squares around the place."""
    first = Anchors(_sizes((8,)))(_maps((16, 16), (8,)), (16, 16), torch.float64)
    assert first.dtype == torch.float64
    assert first.shape == (2 * 2 * 9, 4)
    assert first[3:6].tolist() == [[-16, -16, 16, 16], [-20, -20, 20, 20], [-25, -25, 25, 25]]
    assert first[9 + 3].tolist() == [-8, -16, 24, 16]


def test_cache_is_bounded_and_serves_training_after_inference() -> None:
    anchors = Anchors(_sizes((8,)))
    with torch.inference_mode():
        first = anchors(_maps((32, 32), (8,)), (32, 32), torch.float32)
    assert not first.is_inference()
    assert anchors(_maps((32, 32), (8,)), (32, 32), torch.float32) is first
    for side in range(8, 8 + 8 * 2 * CACHED, 8):
        anchors(_maps((side, 8), (8,)), (side, 8), torch.float32)
    assert len(anchors.cache) == CACHED
    assert not anchors.state_dict()
    copy.deepcopy(anchors)


def test_one_size_a_level_or_all_on_one_map() -> None:
    levels = FeatureSpec.of((2, 3, 6), (1, 1, 1))
    assert pyramid_sizes(levels, 8.0, finest=2) == [[32.0], [64.0], [512.0]]
    assert pyramid_sizes(levels.last(), 8.0, finest=2) == [[32.0, 64.0, 128.0, 256.0, 512.0]]
    assert pyramid_sizes(levels, 4.0, scales=(1, 2), finest=3) == [[16.0, 32.0], [32.0, 64.0], [256.0, 512.0]]
    assert Anchors([[8.0]] * 2).per_place == len(RATIOS)
