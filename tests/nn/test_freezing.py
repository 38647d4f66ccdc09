from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.errors import RecipeError
from detsearch.nn.detector import Detector
from detsearch.nn.freezing import first_stages, freeze
from tests.nn.scenes import random_images, random_targets

SIZE = (64, 64)
BACKBONES = ["basicblock_8_1-2-2-2", "basicblock_8_1-2-2-2(stem=7x7,last=4)", "timm(model=mobilenetv2_035)"]


def _detector(backbone: str = BACKBONES[0], norm: str = "bn") -> Detector:
    return build(parse_network(f"{backbone}/fpn(levels=4-5,width=16,norm={norm})/retinanet(depth=1)/{norm}"), 2)


def _step(detector: Detector) -> None:
    optimiser = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.1)
    losses = detector.losses(random_images([SIZE] * 2, SIZE), random_targets([2, 1], [SIZE] * 2, 2))
    torch.stack(list(losses.values())).sum().backward()
    optimiser.step()


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _unchanged(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if torch.equal(tensor, before[name])}


@pytest.mark.parametrize(
    ("backbone", "stages"),
    [(BACKBONES[0], 1), (BACKBONES[0], 4), (BACKBONES[1], 2), (BACKBONES[2], 1), (BACKBONES[2], 3)],
)
def test_stages(backbone: str, stages: int) -> None:
    """Those and only those stay, statistics included, whatever train() and eval() say; in a copy too."""
    detector = _detector(backbone)
    freeze(detector, stages=stages, norms=False)
    detector = copy.deepcopy(detector).eval().train()
    before = _state(detector)
    _step(detector)
    frozen = {
        f"backbone.{name}"
        for name, tensor in detector.get_submodule("backbone").state_dict(keep_vars=True).items()
        for module in itertools.chain(*first_stages(detector.get_submodule("backbone"), stages))
        if any(tensor is own for own in (*module.parameters(), *module.buffers()))
    }
    assert frozen <= _unchanged(before, detector)
    moved = {name for name, p in detector.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved.isdisjoint(frozen)
    # Every norm behind them has seen a batch, every parameter has got a gradient.
    counters = {name for name in before if name.endswith("num_batches_tracked")}
    assert counters - frozen
    assert (counters - frozen).isdisjoint(_unchanged(before, detector))
    assert {n for n, p in detector.named_parameters() if p.grad is None} == {
        n for n, _ in detector.named_parameters() if n in frozen
    }


def test_the_convention() -> None:
    """1: the stem; 2: also the stage that ends in P2, ..."""
    for stages, names in ((0, []), (1, ["stem"]), (2, ["stem", "layer1"]), (3, ["stem", "layer1", "layer2"])):
        detector = _detector()
        freeze(detector, stages=stages, norms=False)
        still = {name.split(".")[1] for name, p in detector.named_parameters() if not p.requires_grad}
        assert still == set(names)


def test_norms_of_the_backbone_alone() -> None:
    detector = _detector()
    freeze(detector, stages=0, norms=True)
    detector.train()
    before = _state(detector)
    _step(detector)
    same = _unchanged(before, detector)
    of_norms = {
        f"{name}.{key}"
        for name, module in detector.named_modules()
        if isinstance(module, nn.BatchNorm2d) and name.startswith("backbone")
        for key in module.state_dict()
    }
    assert len(of_norms) == 5 * (2 + 4 * 2 + 3)
    assert of_norms <= same
    assert not any(name in same for name, p in detector.named_parameters() if p.requires_grad and p.ndim > 1)
    assert not any(name in same for name in before if name.startswith("neck") and "running" in name)


def test_frozen_norms_use_their_statistics() -> None:
    detector = _detector()
    freeze(detector, stages=5, norms=True)
    pixels = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        training = detector.train().backbone(pixels)
        answering = detector.eval().backbone(pixels)
    assert all(torch.equal(a, b) for a, b in zip(training, answering, strict=True))
    assert not any(p.requires_grad for p in detector.get_submodule("backbone").parameters())


def test_group_norms_need_no_freezing() -> None:
    detector = _detector(norm="gn")
    freeze(detector, stages=0, norms=True)
    assert all(p.requires_grad for p in detector.parameters())


def test_backbones_that_cannot() -> None:
    detector = _detector("basicblock_8_1-2-2-2(last=4)")
    with pytest.raises(RecipeError, match=r"training.frozen_stages: expected 0 to 4, .* CodedResNet .*, got 5"):
        freeze(detector, stages=5, norms=False)
    detector.backbone = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(RecipeError, match="expected 0, as a Identity does not tell its stages, got 1"):
        freeze(detector, stages=1, norms=False)
