from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detsearch.arch.spec import Norm
from detsearch.nn.norms import WS_EPS, GroupNorm, Norms, PickedConv2d, WSConv2d


@pytest.mark.parametrize(("groups", "dtype"), [(1, torch.float32), (4, torch.float64), (8, torch.float32)])
def test_weight_standardisation_is_its_formula(groups: int, dtype: torch.dtype) -> None:
    conv = WSConv2d(8, 16, 3, stride=2, padding=1, groups=groups, bias=False, dtype=dtype)
    x = torch.randn(2, 8, 9, 7, dtype=dtype)
    flat = conv.weight.detach().double().flatten(1)
    mean = flat.sum(1, keepdim=True) / flat.shape[1]
    deviation = ((flat**2).sum(1, keepdim=True) / flat.shape[1] - mean**2 + WS_EPS).sqrt()
    weight = ((flat - mean) / deviation).view_as(conv.weight).to(dtype)
    torch.testing.assert_close(conv(x), F.conv2d(x, weight, stride=2, padding=1, groups=groups))


def test_weight_standardisation_has_a_true_gradient() -> None:
    conv = WSConv2d(2, 3, 3, bias=False, dtype=torch.float64)

    def standardised(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (torch.ones(1, 2, 4, 4, dtype=torch.float64),))

    assert torch.autograd.gradcheck(standardised, conv.weight)


def test_weight_standardisation_under_autocast_keeps_its_precision() -> None:
    conv = WSConv2d(16, 16, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.add_(100.0)  # a mean that bfloat16 could not take away
    x = torch.randn(1, 16, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = conv(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), conv(x), rtol=0.05, atol=0.5)


@pytest.mark.parametrize("channels", [1, 24, 27, 32, 48, 54, 56, 64, 96, 100])
def test_groups(channels: int) -> None:
    norm = Norms("gn").norm(channels)
    assert isinstance(norm, GroupNorm)
    assert norm.num_groups == math.gcd(32, channels)


def test_group_norm_equals_torchs_and_takes_single_values() -> None:
    norm = GroupNorm(48).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 48, 5, 3, dtype=torch.float64)
    expected = F.group_norm(x, 16, norm.weight, norm.bias)
    torch.testing.assert_close(norm(x), expected)
    norm = GroupNorm(32)
    nn.init.normal_(norm.bias)
    torch.testing.assert_close(norm(torch.randn(1, 32, 1, 1)), norm.bias.view(1, 32, 1, 1), rtol=0, atol=1e-3)


def test_kinds() -> None:
    assert type(Norms("bn").norm(8)) is nn.BatchNorm2d
    assert [type(Norms(kind).conv(8, 8, 3)) for kind in ("bn", "gn", "gn_ws")] == [nn.Conv2d, nn.Conv2d, WSConv2d]
    assert all(Norms(kind).conv(8, 8, 3).bias is None for kind in ("bn", "gn", "gn_ws"))
    (only,) = Norms("bn").plain(8, 16, 3)
    assert only.bias is not None
    conv, norm = Norms.of("gn_ws").plain(8, 16, 3)
    assert isinstance(conv, WSConv2d)
    assert isinstance(norm, GroupNorm)
    assert conv.bias is None
    conv, _ = Norms.of("bn", beside_bn="gn").plain(8, 16, 3, bias=True)
    assert conv.bias is not None


def test_standardised_filters_are_kept_while_answering_and_never_stale() -> None:
    torch.manual_seed(0)
    conv = WSConv2d(4, 6, 3, bias=False).eval()
    x = torch.randn(1, 4, 8, 8)

    def fresh() -> torch.Tensor:
        return torch.nn.functional.conv2d(x, conv.standardised())

    with torch.inference_mode():
        assert conv._filters() is conv._filters()
        assert torch.equal(conv(x), fresh())
    with torch.no_grad():
        conv.weight.add_(torch.randn_like(conv.weight))  # an optimiser's step
        assert torch.equal(conv(x), fresh())
        conv.weight.data = torch.randn_like(conv.weight)
        assert torch.equal(conv(x), fresh())
    conv.load_state_dict({"weight": torch.randn_like(conv.weight)})
    with torch.inference_mode():
        assert torch.equal(conv(x), fresh())
    conv.double()
    x = x.double()
    with torch.inference_mode():
        assert torch.equal(conv(x), fresh())
    conv(x).sum().backward()  # a gradient reaches the weight, whatever was kept
    assert conv.weight.grad is not None


@pytest.mark.parametrize("kind", ["bn", "gn_ws"])
@pytest.mark.parametrize(("stride", "side"), [(2, 8), (2, 7), (3, 8)])
def test_picking_first_gives_the_same(kind: Norm, stride: int, side: int) -> None:
    """Figures, gradients and names of parameters are those of the plain convolution."""
    conv = Norms(kind).conv(4, 6, 1, stride=stride).double()
    assert isinstance(conv, PickedConv2d)
    plain = (WSConv2d if kind == "gn_ws" else nn.Conv2d)(4, 6, 1, stride=stride, bias=False).double()
    plain.load_state_dict(conv.state_dict())
    images = torch.randn(2, 4, side, side + 1, dtype=torch.float64)
    found, expected = [], []
    for one, values in ((conv, found), (plain, expected)):
        given = images.clone().requires_grad_()
        output = one(given)
        output.square().sum().backward()
        values += [output, one.weight.grad, given.grad]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_only_strided_1x1_convolutions_of_few_channels_pick_first() -> None:
    norms = Norms("gn_ws")
    for conv in (norms.conv(16, 8, 1, stride=2), norms.conv(4, 8, 1), norms.conv(4, 8, 3, stride=2)):
        assert type(conv) is WSConv2d
    assert isinstance(norms.conv(32, 32, 1, stride=2, groups=4), PickedConv2d)


CRASHING = """
import torch
from detsearch.nn.norms import Norms
torch.set_num_threads(1)
for inputs, outputs in ((8, 16), (4, 8), (12, 16)):
    conv = Norms("bn").conv(inputs, outputs, 1, stride=2)
    maps = torch.randn(8, inputs, 96, 128).contiguous(memory_format=torch.channels_last)
    for _ in range(30):
        conv(maps).square().mean().backward()
"""


def test_slim_strided_convolutions_leave_memory_alone() -> None:
    """In a process of its own: where the processor has AVX-512, plain ones end it."""
    done = subprocess.run(
        [sys.executable, "-c", CRASHING], env={**os.environ, "MALLOC_CHECK_": "3"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
