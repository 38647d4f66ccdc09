from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.catalogue import catalogue
from detsearch.arch.modules.proposals import GARPNSpec, RPNSpec
from detsearch.arch.spec import Norm
from detsearch.errors import SpecError
from detsearch.nn.interfaces import Filling
from detsearch.nn.norms import GroupNorm
from detsearch.nn.ops.boxes import encode
from detsearch.nn.ops.sampling import BalancedSampler
from detsearch.nn.proposals.rpn import RPN, anchor_losses, build_rpn
from detsearch.nn.structures import ImageBatch, Targets
from detsearch.types import FeatureSpec
from tests.nn.scenes import random_targets

MAPS = FeatureSpec.of((2, 4), (8, 8))
SIZES = [(60, 64), (64, 50)]


def _rpn(norm: Norm = "bn", features: FeatureSpec = MAPS, **fields: float) -> RPN:
    torch.manual_seed(0)
    return build_rpn(RPNSpec(**fields), features=features, norm=norm)  # type: ignore[arg-type]


def _input(features: FeatureSpec = MAPS, side: int = 64) -> tuple[list[Tensor], ImageBatch]:
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, c, side // s, side // s, generator=generator)
        for c, s in zip(features.channels, features.strides, strict=True)
    ]
    return maps, ImageBatch(torch.zeros(2, 3, side, side), torch.tensor(SIZES))


def test_answers_stand_in_the_order_of_the_anchors() -> None:
    """Channel a of the logits at row y, column x is anchor (y * W + x) * 3 + a, channels 4 a to 4 a + 3 its deltas."""
    rpn = _rpn()
    x = torch.randn(1, 8, 3, 5)
    logits, deltas = rpn([x])
    level = rpn.tower(x)
    torch.testing.assert_close(logits[0], rpn.objectness(level).permute(0, 2, 3, 1).reshape(1, -1))
    torch.testing.assert_close(
        deltas[0], rpn.box_deltas(level).view(1, 3, 4, 3, 5).permute(0, 3, 4, 1, 2).reshape(1, -1, 4)
    )


def test_spec_to_module() -> None:
    rpn = _rpn("gn", width=16, depth=2, anchor_scale=4, keep=7)
    convs = [m for m in rpn.tower.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(8, 16), (16, 16)]
    assert sum(isinstance(m, GroupNorm) for m in rpn.modules()) == 2
    assert rpn.anchors.per_place == 3
    maps, images = _input()
    anchors = rpn.anchors(maps, images.padded, torch.float32)
    squares = (anchors[:, 2:] - anchors[:, :2])[1::3]
    assert squares[0].tolist() == [16, 16]
    assert squares[-1].tolist() == [64, 64]
    proposals, losses = rpn.propose(maps, images, None)
    assert proposals.boxes.shape == (2, 7, 4)
    assert losses == {}
    assert not any(isinstance(m, (nn.BatchNorm2d, GroupNorm)) for m in _rpn().modules())
    assert [c.out_channels for c in _rpn(features=FeatureSpec.of((2,), (1024,))).tower.modules()
            if isinstance(c, nn.Conv2d)] == [512]  # fmt: skip


def test_maps_of_different_width_are_refused() -> None:
    with pytest.raises(SpecError, match="rpn"):
        build_rpn(RPNSpec(), features=FeatureSpec.of((3, 4), (8, 16)), norm="bn")


def test_without_a_neck_one_map_has_anchors_of_every_size() -> None:
    """As a pyramid from P2 to P6 would have them."""
    one = FeatureSpec.of((5,), (16,))
    rpn = _rpn(features=one)
    anchors = rpn.anchors([torch.zeros(1, 1, 2, 2)], (64, 64), torch.float32)
    squares = (anchors[:15, 2:] - anchors[:15, :2])[5:10]
    assert squares.tolist() == [[side, side] for side in (32, 64, 128, 256, 512)]
    maps, images = _input(one)
    proposals, losses = rpn.propose(maps, images, random_targets([2, 0], SIZES, 3))
    assert proposals.valid.any(dim=1).all()
    assert all(loss.isfinite() for loss in losses.values())


def test_twice_as_many_in_training() -> None:
    maps, images = _input()
    rpn = _rpn(keep=5)
    rpn.candidates = 6
    assert rpn.propose(maps, images, None)[0].boxes.shape[1] == 5
    assert rpn.propose(maps, images, random_targets([1, 1], SIZES, 3))[0].boxes.shape[1] == 10
    rpn.candidates = 1
    assert rpn.propose(maps, images, None)[0].valid.sum(dim=1).tolist() == [2, 2]  # one of each level
    assert rpn.propose(maps, images, random_targets([1, 1], SIZES, 3))[0].valid.sum(dim=1).max() > 2


def test_filled_up_at_nominal_load() -> None:
    rpn = _rpn(keep=300)
    assert isinstance(rpn, Filling)
    maps, images = _input()
    with torch.no_grad():
        rpn.box_deltas.weight.zero_()
    assert not rpn.propose(maps, images, None)[0].valid.all()
    rpn.fill = True
    assert rpn.propose(maps, images, None)[0].valid.all()


@pytest.mark.parametrize("norm", ["bn", "gn_ws"])
@pytest.mark.parametrize("counts", [[3, 2], [4, 0], [0, 0]])
def test_losses(norm: Norm, counts: list[int]) -> None:
    rpn = _rpn(norm)
    maps, images = _input()
    proposals, losses = rpn.propose(maps, images, random_targets(counts, SIZES, 3))
    assert not proposals.boxes.requires_grad
    assert losses.keys() == {"objectness", "proposal_box"}
    assert losses["objectness"].item() == pytest.approx(math.log(2), abs=0.1)
    assert (losses["proposal_box"] > 0) == any(counts)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in rpn.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert bool(parameter.grad.any()) == (any(counts) or not name.startswith("box")), name


def test_losses_by_hand() -> None:
    """Two images, one without an object; the sampler takes the first positive and two negatives of each."""

    def sampler(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        return positive & (positive.cumsum(1) == 1), negative & (negative.cumsum(1) <= 2)

    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12], [20, 20, 40, 40], [60, 60, 70, 70]])
    targets = Targets.from_lists(
        [torch.tensor([[1.0, 2, 10, 12]]), torch.zeros(0, 4)], [torch.tensor([3]), torch.zeros(0, dtype=torch.int64)]
    )
    matches = torch.tensor([[-2, 0, -1, -1], [-1, -1, -1, -1]])
    logits = torch.randn(2, 4, requires_grad=True)
    deltas = torch.randn(2, 4, 4, requires_grad=True)
    found = anchor_losses(logits, deltas, anchors, matches, targets, sampler)
    softplus = F.softplus(torch.stack([-logits[0, 1], logits[0, 2], logits[0, 3], logits[1, 0], logits[1, 1]]))
    torch.testing.assert_close(found["objectness"], softplus.sum() / 5)
    off = (deltas[0, 1] - encode(targets.boxes[0], anchors[1:2])[0]).abs()
    smooth = torch.where(off < 1 / 9, off**2 * 4.5, off - 1 / 18)
    torch.testing.assert_close(found["proposal_box"], smooth.sum() / 5)
    each = anchor_losses(logits, deltas, anchors.expand(2, -1, -1), matches, targets, sampler)
    assert torch.equal(each["proposal_box"], found["proposal_box"])


def test_nothing_to_sample() -> None:
    """All anchors ignored: the losses are 0 and still reach the parameters."""
    logits, deltas = torch.randn(1, 3, requires_grad=True), torch.randn(1, 3, 4, requires_grad=True)
    targets = random_targets([1], [(64, 64)], 3)
    ignored = torch.full((1, 3), -2)
    losses = anchor_losses(logits, deltas, torch.rand(3, 4), ignored, targets, BalancedSampler(4, 0.5))
    total = torch.stack(list(losses.values())).sum()
    assert total == 0
    total.backward()
    assert logits.grad is not None
    assert deltas.grad is not None


def test_bfloat16_autocast() -> None:
    rpn = _rpn()
    maps, images = _input()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        proposals, losses = rpn.propose(maps, images, random_targets([3, 2], SIZES, 3))
    assert proposals.boxes.dtype == torch.float32
    assert all(loss.dtype == torch.float32 for loss in losses.values())


@pytest.mark.parametrize(("keep", "compared"), [(1000, 1000), (2000, 1000), (250, 1000), (100, 400)])
@pytest.mark.parametrize("kind", [RPNSpec, GARPNSpec])
def test_few_regions_are_chosen_among_few(kind: type[RPNSpec], keep: int, compared: int) -> None:
    spec = kind(keep=keep)
    descriptor = catalogue().of(spec)
    built = descriptor.load_builder()(spec, features=FeatureSpec.of((3, 4), (8, 8)), norm="bn")
    assert (built.keep, built.candidates) == (keep, compared)
