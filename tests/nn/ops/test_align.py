from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

from detsearch.nn.ops import align as module
from detsearch.nn.ops.align import align, spread


def _rois(count: int, images: int, generator: torch.Generator) -> Tensor:
    """Small and large ones, some of them partly or wholly outside a map of 52 x 36 pixels, some without area."""
    corner = torch.rand((count, 2), generator=generator, dtype=torch.float64) * 80 - 20
    side = torch.rand((count, 2), generator=generator, dtype=torch.float64) * torch.tensor([40.0, 30.0])
    side[::5] = 0
    image = torch.randint(0, images, (count, 1), generator=generator).double()
    return torch.cat([image, corner, corner + side], dim=1)


@settings(max_examples=30)
@given(
    st.integers(0, 12), st.integers(1, 3), st.integers(1, 7), st.integers(1, 3), st.booleans(), st.integers(0, 2**16)
)
def test_gradients_are_torchvisions(count: int, images: int, size: int, sampling: int, one: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (images, 2, 1, 1) if one else (images, 2, 9, 13)
    rois = _rois(count, images, generator)
    mine = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    theirs = mine.detach().clone().requires_grad_()
    found, expected = align(mine, rois, size, 0.25, sampling), roi_align(theirs, rois, size, 0.25, sampling)
    assert torch.equal(found, expected)
    weight = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "value"), [("MOST_VALUES", 1), ("MOST_PLACES", 0)])
def test_in_parts_and_by_torchvision(name: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One region at a time, and on maps that are too large for products, gradients are the same."""
    generator = torch.Generator().manual_seed(0)
    rois = _rois(10, 2, generator)
    gradients = []
    for _ in range(2):
        level = torch.zeros((2, 3, 9, 13), dtype=torch.float64, requires_grad=True)
        align(level, rois, 4, 0.25, 2).square().mean().backward()
        (align(level, rois, 4, 0.25, 2) * torch.arange(4)).sum().backward()
        assert level.grad is not None
        gradients.append(level.grad)
        monkeypatch.setattr(module, name, value)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_in_float32_and_under_autocast(memory: torch.memory_format) -> None:
    """As trainings have it; a backward pass within autocast loses nothing either."""
    generator = torch.Generator().manual_seed(0)
    rois = _rois(10, 2, generator).float()
    start = torch.randn((2, 3, 9, 13), generator=generator).contiguous(memory_format=memory)
    weight = torch.randn((10, 3, 4, 4), generator=generator)
    gradients = []
    for function in (align, roi_align):
        level = start.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (function(level, rois, 4, 0.25, 2) * weight).sum().backward()
        assert level.grad is not None
        gradients.append(level.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_the_gradient_can_be_differentiated() -> None:
    generator = torch.Generator().manual_seed(0)
    rois = _rois(4, 2, generator)
    level = torch.randn((2, 1, 4, 5), generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: align(x, rois, 2, 0.25, 2), level)
    assert torch.autograd.gradgradcheck(lambda x: align(x, rois, 2, 0.25, 2).sin(), level)


def test_every_share_is_spread() -> None:
    """What flows into a region inside the map flows out of it again."""
    gradient = torch.rand((1, 1, 3, 3), dtype=torch.float64)
    found = spread(gradient, torch.tensor([[0, 8.0, 8, 30, 20]]).double(), 0.25, 2, torch.Size((1, 1, 9, 13)))
    torch.testing.assert_close(found.sum(), gradient.sum())
