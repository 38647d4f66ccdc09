from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Literal

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detsearch.arch.spec import Norm
from detsearch.nn.necks.fpn import FPN
from detsearch.nn.norms import GroupNorm, Norms, WSConv2d
from detsearch.types import FeatureSpec

BACKBONE = FeatureSpec.of((2, 3, 4, 5), (4, 6, 8, 10))
SETS = [levels for n in range(1, 7) for levels in itertools.combinations(range(2, 8), n)]


def _fpn(levels: tuple[int, ...], norm: Norm = "bn", extra_from: Literal["p5", "c5"] = "p5", width: int = 8) -> FPN:
    return FPN(BACKBONE, Norms.of(norm), levels=levels, width=width, extra_from=extra_from)


def _maps(height: int, width: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [
        torch.randn(2, c, -(-height // s), -(-width // s), dtype=dtype, requires_grad=True)
        for c, s in zip(BACKBONE.channels, BACKBONE.strides, strict=True)
    ]


@pytest.mark.parametrize("extra_from", ["p5", "c5"])
def test_every_set_of_levels(extra_from: Literal["p5", "c5"]) -> None:
    """Shapes, a gradient for every parameter, and none that is not needed; at a size that halves unevenly."""
    for levels in SETS:
        neck = _fpn(levels, extra_from=extra_from)
        maps = _maps(203, 301)
        found = neck(maps)
        assert neck.out == FeatureSpec.of(levels, (8,) * len(levels))
        for level, out in zip(levels, found, strict=True):
            assert out.shape == (2, 8, -(-203 // 2**level), -(-301 // 2**level))
        sum(out.square().sum() for out in found).backward()  # type: ignore[union-attr]
        for name, parameter in neck.named_parameters():
            assert parameter.grad is not None, (levels, name)
            assert parameter.grad.abs().sum() > 0, (levels, name)
        finest = min((level for level in levels if level <= 5), default=5)
        used = [m.grad is not None for m in maps]
        assert used == [level >= finest for level in BACKBONE.levels], levels


@pytest.mark.parametrize("extra_from", ["p5", "c5"])
def test_choosing_fewer_levels_changes_no_other(extra_from: Literal["p5", "c5"]) -> None:
    whole = _fpn((2, 3, 4, 5, 6, 7), extra_from=extra_from).double()
    maps = _maps(128, 160, torch.float64)
    everything = dict(zip(whole.out.levels, whole(maps), strict=True))
    for levels in SETS:
        part = _fpn(levels, extra_from=extra_from).double()
        part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
        for level, out in zip(levels, part(maps), strict=True):
            assert torch.equal(out, everything[level]), levels


@pytest.mark.parametrize("extra_from", ["p5", "c5"])
def test_equal_to_torchvisions(extra_from: Literal["p5", "c5"]) -> None:
    last = LastLevelP6P7(8 if extra_from == "p5" else 10, 8)
    theirs = FeaturePyramidNetwork([4, 6, 8, 10], 8, extra_blocks=last).double()
    neck = _fpn((2, 3, 4, 5, 6, 7), extra_from=extra_from).double()
    for i, level in enumerate(BACKBONE.levels):
        neck.lateral[str(level)].load_state_dict(theirs.inner_blocks[i].state_dict())
        neck.output[str(level)].load_state_dict(theirs.layer_blocks[i].state_dict())
    for level in (6, 7):
        neck.extra[str(level)][0].load_state_dict(getattr(last, f"p{level}").state_dict())  # type: ignore[index]
    maps = _maps(100, 140, torch.float64)
    expected = theirs(OrderedDict((str(i), m) for i, m in enumerate(maps)))
    for a, b in zip(neck(maps), expected.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_norms() -> None:
    assert not any(isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)) for m in _fpn((3, 6)).modules())
    neck = _fpn((3, 4, 7), "gn_ws")
    convs = [m for m in neck.modules() if isinstance(m, nn.Conv2d)]
    assert all(isinstance(m, WSConv2d) for m in convs)
    assert len([m for m in neck.modules() if isinstance(m, GroupNorm)]) == len(convs) == 3 + 3 + 2
    assert [out.isfinite().all().item() for out in neck(_maps(32, 32))] == [True] * 3


def test_backbone_of_fewer_levels() -> None:
    """Extra levels begin above whatever the backbone's deepest is."""
    neck = FPN(FeatureSpec.of((3, 4), (6, 8)), Norms.of("bn"), levels=(3, 5, 6), width=8)
    found = neck([torch.randn(1, 6, 16, 16), torch.randn(1, 8, 8, 8)])
    assert [tuple(m.shape[-2:]) for m in found] == [(16, 16), (4, 4), (2, 2)]
