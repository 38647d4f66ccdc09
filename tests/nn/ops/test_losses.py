from __future__ import annotations

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from detsearch.nn.ops.losses import bounded_iou_loss, focal_loss


@pytest.mark.parametrize("gamma", [2.0, 1.5])
def test_focal_loss_equals_torchvisions(gamma: float) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(3, 50, 4, dtype=torch.float64) * 8).requires_grad_()
    labels = torch.randint(0, 4, (3, 50))
    state = torch.randint(-2, 1, (3, 50))
    state[2] = -1  # an image without objects
    targets = torch.zeros(3, 50, 4, dtype=torch.float64)
    targets[state >= 0, labels[state >= 0]] = 1
    every = sigmoid_focal_loss(logits, targets, alpha=0.3, gamma=gamma)
    expected = (every * (state >= -1)[..., None]).sum(dim=(1, 2))
    found = focal_loss(logits, labels, state >= 0, state >= -1, alpha=0.3, gamma=gamma)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    (a,) = torch.autograd.grad(expected.sum(), logits)
    (b,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-7)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[-200.0, 200.0]], [[200.0, -200.0]]], requires_grad=True)
    yes = torch.ones(2, 1, dtype=torch.bool)
    loss = focal_loss(logits, torch.zeros(2, 1, dtype=torch.int64), yes, yes, alpha=0.25, gamma=2.0)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([0.25 * 200 + 0.75 * 200, 0.0]))
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("side", "loss"), [(1.0, 0.0), (2.0, 0.4), (0.5, 0.4), (1 / 0.9, 0.025), (0.9, 0.025)])
def test_bounded_iou_loss_by_hand(side: float, loss: float) -> None:
    """Half of a side missing, on either side of the goal, costs 0.5 - 0.2 / 2; a tenth 0.1^2 / (2 * 0.2)."""
    goal = torch.tensor(7.0, dtype=torch.float64)
    found = bounded_iou_loss((side * goal).log(), goal.log(), beta=0.2)
    assert float(found) == pytest.approx(loss, abs=1e-12)


def test_bounded_iou_loss_is_bounded() -> None:
    sides = torch.tensor([-1e4, 0.0, 1e4], requires_grad=True)
    loss = bounded_iou_loss(sides, torch.zeros(3), beta=0.2)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.9, 0.0, 0.9])
    assert sides.grad is not None
    assert sides.grad.isfinite().all()
