from __future__ import annotations

import itertools
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from detsearch.arch.code import parse_network
from detsearch.arch.modules.fields import LayerNorm
from detsearch.arch.modules.necks import ExtraFrom
from detsearch.arch.spec import Norm
from detsearch.build import build
from detsearch.nn.necks.fpn import FPN
from detsearch.nn.norms import GroupNorm, Norms, WSConv2d
from detsearch.types import FeatureSpec

BACKBONE = FeatureSpec.of((2, 3, 4, 5), (4, 6, 8, 10))
SETS = [levels for n in range(1, 7) for levels in itertools.combinations(range(2, 8), n)]


EXTRA = ["p5", "c5", "pool"]


def _fpn(
    levels: tuple[int, ...],
    norm: Norm = "bn",
    extra_from: ExtraFrom = "p5",
    width: int = 8,
    layers: LayerNorm = "auto",
) -> FPN:
    return FPN(BACKBONE, Norms.of(norm, layers), levels=levels, width=width, extra_from=extra_from)


def _maps(height: int, width: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [
        torch.randn(2, c, -(-height // s), -(-width // s), dtype=dtype, requires_grad=True)
        for c, s in zip(BACKBONE.channels, BACKBONE.strides, strict=True)
    ]


@pytest.mark.parametrize("extra_from", EXTRA)
def test_every_set_of_levels(extra_from: ExtraFrom) -> None:
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


@pytest.mark.parametrize("extra_from", EXTRA)
def test_choosing_fewer_levels_changes_no_other(extra_from: ExtraFrom) -> None:
    whole = _fpn((2, 3, 4, 5, 6, 7), extra_from=extra_from).double()
    maps = _maps(128, 160, torch.float64)
    everything = dict(zip(whole.out.levels, whole(maps), strict=True))
    for levels in SETS:
        part = _fpn(levels, extra_from=extra_from).double()
        part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
        for level, out in zip(levels, part(maps), strict=True):
            assert torch.equal(out, everything[level]), levels


@pytest.mark.parametrize("layers", ["none", "bn"])
@pytest.mark.parametrize("extra_from", EXTRA)
def test_equal_to_torchvisions(extra_from: ExtraFrom, layers: LayerNorm) -> None:
    """With its extra blocks of RetinaNet and of Faster R-CNN; with batch norms those of its v2 detectors."""
    last = LastLevelMaxPool() if extra_from == "pool" else LastLevelP6P7(8 if extra_from == "p5" else 10, 8)
    norm_layer = nn.BatchNorm2d if layers == "bn" else None
    theirs = FeaturePyramidNetwork([4, 6, 8, 10], 8, extra_blocks=last, norm_layer=norm_layer).double()
    levels = (2, 3, 4, 5, 6) if extra_from == "pool" else (2, 3, 4, 5, 6, 7)
    neck = _fpn(levels, extra_from=extra_from, layers="none").double()
    if layers == "bn":
        neck.lateral, neck.output = (
            _fpn(levels, extra_from=extra_from, layers="bn").double().get_submodule(name)
            for name in ("lateral", "output")
        )
    for i, level in enumerate(BACKBONE.levels):
        neck.lateral[str(level)].load_state_dict(theirs.inner_blocks[i].state_dict())
        neck.output[str(level)].load_state_dict(theirs.layer_blocks[i].state_dict())
    if isinstance(last, LastLevelP6P7):
        for level in (6, 7):
            neck.extra[str(level)][0].load_state_dict(getattr(last, f"p{level}").state_dict())  # type: ignore[index]
    maps = _maps(100, 140, torch.float64)
    for _ in range(2):  # in training, which moves the norms' statistics, and with these
        expected = theirs(OrderedDict((str(i), m) for i, m in enumerate(maps)))
        for a, b in zip(neck(maps), expected.values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        neck.eval()
        theirs.eval()


def test_norms() -> None:
    assert not any(isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)) for m in _fpn((3, 6)).modules())
    neck = _fpn((3, 4, 7), "gn_ws")
    convs = [m for m in neck.modules() if isinstance(m, nn.Conv2d)]
    assert all(isinstance(m, WSConv2d) for m in convs)
    assert len([m for m in neck.modules() if isinstance(m, GroupNorm)]) == len(convs) == 3 + 3 + 2
    assert [out.isfinite().all().item() for out in neck(_maps(32, 32))] == [True] * 3


@pytest.mark.parametrize("neck", ["fpn", "pafpn"])
@pytest.mark.parametrize("extra_from", EXTRA)
def test_backbone_of_fewer_levels(neck: str, extra_from: ExtraFrom) -> None:
    """Extra levels begin above whatever the backbone's deepest is."""
    text = f"basicblock_8_1-2-2-2(last=4)/{neck}(levels=3-4-5-6,width=16,extra_from={extra_from})/retinanet(depth=1)"
    detector = build(parse_network(text), 2)
    assert detector.neck is not None
    assert list(detector.neck.extra) == ["5", "6"]  # type: ignore[attr-defined]
    found = detector.neck(detector.backbone(torch.randn(1, 3, 64, 96)))
    assert [tuple(m.shape[-2:]) for m in found] == [(8, 12), (4, 6), (2, 3), (1, 2)]
