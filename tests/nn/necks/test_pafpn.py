from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.code import format_network, parse_network
from detsearch.arch.modules.necks import ExtraFrom
from detsearch.arch.spec import NORMS, Norm
from detsearch.build import build
from detsearch.nn.necks.fpn import FPN
from detsearch.nn.necks.pafpn import PAFPN
from detsearch.nn.norms import Norms
from detsearch.types import FeatureSpec

BACKBONE = FeatureSpec.of((2, 3, 4, 5), (4, 6, 8, 10))
SETS = [levels for n in range(1, 7) for levels in itertools.combinations(range(2, 8), n)]


def _pafpn(levels: tuple[int, ...], norm: Norm = "bn", extra_from: ExtraFrom = "p5") -> PAFPN:
    return PAFPN(BACKBONE, Norms.of(norm), levels=levels, width=8, extra_from=extra_from)


def _maps(height: int, width: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [
        torch.randn(2, c, -(-height // s), -(-width // s), dtype=dtype, requires_grad=True)
        for c, s in zip(BACKBONE.channels, BACKBONE.strides, strict=True)
    ]


def test_second_path() -> None:
    """Written out from the paper: N2 = P2, N(l+1) = relu(3x3(P(l+1) + relu(3x3 of stride 2 (N(l))))); P6 from N5."""
    neck = _pafpn((2, 3, 4, 5, 6)).double()
    first = FPN(BACKBONE, Norms.of("bn"), levels=(2, 3, 4, 5), width=8).double()
    first.load_state_dict({k: v for k, v in neck.state_dict().items() if k.startswith(("lateral", "output"))})
    maps = _maps(99, 131, torch.float64)

    def conv(x: Tensor, layer: nn.Module, stride: int) -> Tensor:
        return F.conv2d(x, layer[0].weight, layer[0].bias, stride=stride, padding=1)  # type: ignore[index]

    n2, p3, p4, p5 = first(maps)
    expected = [n2]
    for level, p in (("3", p3), ("4", p4), ("5", p5)):
        down = conv(expected[-1], neck.down[level], 2).relu()
        expected.append(conv(p + down, neck.fuse[level], 1).relu())
    expected.append(conv(expected[-1], neck.extra["6"], 2))
    for found, wanted in zip(neck(maps), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("extra_from", ["p5", "c5", "pool"])
def test_every_set_of_levels(extra_from: ExtraFrom) -> None:
    """Shapes at a size that halves unevenly, a gradient for every parameter, and the same maps as the whole neck has
    where its path begins at the same level: it also passes through levels that are not chosen."""
    maps = _maps(203, 301)
    for levels in SETS[:: 1 if extra_from == "p5" else 4]:
        neck = _pafpn(levels, extra_from=extra_from)
        assert neck.out == FeatureSpec.of(levels, (8,) * len(levels))
        found = neck(maps)
        for level, out in zip(levels, found, strict=True):
            assert out.shape == (2, 8, -(-203 // 2**level), -(-301 // 2**level))
        sum(out.square().sum() for out in found).backward()  # type: ignore[union-attr]
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters()), levels
        finest = min(level for level in (*levels, 5))
        whole = _pafpn(tuple(range(finest, 8)), extra_from=extra_from)
        part = {k: v for k, v in neck.state_dict().items() if k in whole.state_dict()}
        assert len(part) == len(neck.state_dict())
        whole.load_state_dict(part, strict=False)
        everything = dict(zip(whole.out.levels, whole(maps), strict=True))
        for level, out in zip(levels, found, strict=True):
            assert torch.equal(out, everything[level]), levels


@pytest.mark.parametrize("norm", NORMS)
def test_norms(norm: Norm) -> None:
    neck = _pafpn((3, 5, 6), norm)
    norms = [m for m in neck.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))]
    assert len(norms) == (0 if norm == "bn" else 3 + 3 + 2 + 2 + 1)
    assert all(out.isfinite().all() for out in neck(_maps(32, 32)))


def test_maps_whose_sides_are_rounded_down() -> None:
    """As some backbones do: the path is brought to the size of the next level."""
    maps = [torch.randn(1, c, 101 // s, 77 // s) for c, s in zip(BACKBONE.channels, BACKBONE.strides, strict=True)]
    assert [o.shape[-2:] for o in _pafpn((2, 3, 4, 5))(maps)] == [m.shape[-2:] for m in maps]


def test_from_text() -> None:
    text = "resnet18/pafpn(levels=3-5,width=16)/fcos"
    assert format_network(parse_network(text)) == text
    assert isinstance(build(parse_network(text), 2).neck, PAFPN)
