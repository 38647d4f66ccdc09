from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from detsearch.nn.ops.deform import DeformableConv2d


def _case(
    channels: int, outputs: int, kernel: int, groups: int, images: int, height: int, width: int, reach: float = 3.0
) -> tuple[DeformableConv2d, Tensor, Tensor]:
    conv = DeformableConv2d(channels, outputs, kernel, groups).double()
    level = torch.randn(images, channels, height, width, dtype=torch.float64, requires_grad=True)
    offsets = reach * torch.randn(images, conv.offsets, height, width, dtype=torch.float64)
    return conv, level, offsets.requires_grad_()


@given(
    seed=st.integers(0, 10**6),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.sampled_from([1, 3, 5]),
    images=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
@settings(max_examples=40)
def test_as_torchvisions(seed: int, groups: int, kernel: int, images: int, height: int, width: int) -> None:
    """Values and all gradients, displacements beyond the border included."""
    torch.manual_seed(seed)
    conv, level, offsets = _case(4, 3, kernel, groups, images, height, width)
    found = conv(level, offsets)
    expected = deform_conv2d(level, offsets, conv.weight, padding=kernel // 2)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    by = torch.randn_like(found)
    arguments = (level, offsets, conv.weight)
    for a, b in zip(
        torch.autograd.grad((found * by).sum(), arguments),
        torch.autograd.grad((expected * by).sum(), arguments),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_gradients_by_finite_differences() -> None:
    torch.manual_seed(0)
    conv, level, offsets = _case(4, 2, 3, 2, 1, 3, 4, reach=0.7)
    assert torch.autograd.gradcheck(conv, (level, offsets))


def test_without_displacement_a_convolution() -> None:
    conv, level, offsets = _case(6, 5, 3, 2, 2, 7, 4)
    expected = nn.functional.conv2d(level, conv.weight, padding=1)
    torch.testing.assert_close(conv(level, torch.zeros_like(offsets)), expected)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_precisions_and_memory_formats(memory: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv, level, offsets = _case(8, 8, 3, 4, 2, 6, 5)
    expected = conv(level, offsets)
    conv = conv.float().to(memory_format=memory)  # type: ignore[call-overload]
    level, offsets = (x.float().contiguous(memory_format=memory) for x in (level, offsets))
    torch.testing.assert_close(conv(level, offsets).double(), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = conv(level.bfloat16(), offsets)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05)


def test_counted_as_a_convolution() -> None:
    conv, level, offsets = _case(8, 6, 3, 4, 1, 6, 5)
    with FlopCounterMode(display=False) as counter:
        conv(level, offsets)
    assert counter.get_total_flops() == 2 * 6 * 5 * 6 * 8 * 9
