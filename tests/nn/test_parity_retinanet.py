"""RetinaNet-R50-FPN here and torchvision's, same state and same preprocessed batch: same detections, same losses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.errors import CheckpointError
from detsearch.nn.backbones.weights import load_strictly, read_state
from detsearch.nn.detector import Detector
from detsearch.nn.torchvision_weights import from_torchvision, to_torchvision
from tests.nn.parity import answers, as_lists, losses, noise, same_detections, same_gradients, same_losses
from tests.nn.scenes import random_targets

CLASSES = 6
THRESHOLD = 0.3
NAMES = {"classification": "classification", "box": "bbox_regression"}
CASES = {
    "landscape": ([(96, 160)], (96, 160)),
    "portrait": ([(150, 90)], (160, 96)),
    "two of different sizes": ([(90, 128), (96, 101)], (96, 128)),
    "no multiple of 32": ([(101, 133)], (101, 133)),
}


@pytest.fixture(scope="module", params=[7, 8])
def reference(request: pytest.FixtureRequest) -> nn.Module:
    """torchvision's network with plausible statistics in its norms and a class bias that lets many anchors answer."""
    torch.manual_seed(request.param)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES, score_thresh=THRESHOLD)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
    with torch.no_grad():
        model.train().backbone(torch.randn(2, 3, 96, 128))
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and not name.startswith("backbone.body"):
                parameter.normal_(std=0.1)
        head = model.head
        for tower in (head.classification_head.conv, head.regression_head.conv):
            for layer in tower:
                layer[0].weight.normal_(std=0.02)
        head.classification_head.cls_logits.weight.normal_(std=0.02)
        head.regression_head.bbox_reg.weight.normal_(std=0.002)
        head.classification_head.cls_logits.bias.normal_(mean=-1.0, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def detector(reference: nn.Module) -> Detector:
    ours = build(parse_network("resnet50/fpn/retinanet"), CLASSES)
    load_strictly(ours, from_torchvision(reference.state_dict()), "torchvision")
    ours.head.score_threshold = THRESHOLD  # type: ignore[attr-defined]
    return ours.eval()


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def pair(request: pytest.FixtureRequest, reference: nn.Module, detector: Detector) -> Iterator[tuple[Any, Detector]]:
    yield reference.to(request.param), detector.to(request.param)
    # A detour over float64 loses nothing, so that the float32 state is as before.
    reference.float()
    detector.float()


@pytest.mark.parametrize("case", CASES)
def test_detections(case: str, pair: tuple[Any, Detector]) -> None:
    reference, detector = pair
    batch = noise(*CASES[case], next(detector.parameters()).dtype)
    found = detector.detect(batch)
    for i, their in enumerate(answers(reference, batch)):
        assert len(their["boxes"]) >= 50
        same_detections(found, i, their, exact=batch.pixels.dtype == torch.float64)


@pytest.mark.parametrize("counts", [[5, 3], [4, 0], [0, 0]], ids=["objects", "one image without", "none"])
def test_losses(counts: list[int], pair: tuple[Any, Detector]) -> None:
    reference, detector = pair
    sizes, padded = CASES["two of different sizes"]
    batch = noise(sizes, padded, next(detector.parameters()).dtype)
    targets = random_targets(counts, sizes, CLASSES, dtype=batch.pixels.dtype)
    found = detector.losses(batch, targets)
    same_losses(found, losses(reference, batch, as_lists(targets)), NAMES)
    if any(counts):
        assert found["box"] > 0


@pytest.mark.parametrize("pair", [torch.float64], ids=["float64"], indirect=True)
def test_gradients(pair: tuple[Any, Detector]) -> None:
    reference, detector = pair
    batch = noise(*CASES["landscape"], torch.float64)
    targets = random_targets([4], CASES["landscape"][0], CLASSES, dtype=torch.float64)
    torch.stack(list(losses(reference, batch, as_lists(targets)).values())).sum().backward()
    torch.stack(list(detector.losses(batch, targets).values())).sum().backward()
    same_gradients(detector, reference)


def test_names_there_and_back(reference: nn.Module) -> None:
    state = reference.state_dict()
    back = to_torchvision(from_torchvision(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_published_files_load(reference: nn.Module, tmp_path: Path) -> None:
    """torchvision's published file has older names and norms that are frozen, with eps 0 set after loading."""
    old = {}
    for key, value in reference.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        key = (
            key.replace("blocks.0.0.", "blocks.0.")
            .replace("blocks.1.0.", "blocks.1.")
            .replace("blocks.2.0.", "blocks.2.")
        )
        for i in reversed(range(4)):
            key = key.replace(f"_head.conv.{i}.0.", f"_head.conv.{2 * i}.")
        old[key] = value
    torch.save(old, tmp_path / "published.pth")

    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES)
    theirs.eval()
    frozen = _freeze(theirs)
    assert frozen == 53
    theirs.load_state_dict(old)
    # In float64, so that what the norms' scale takes over from eps is seen exactly.
    state = {key: value.double() for key, value in read_state(tmp_path / "published.pth").items()}
    ours = build(parse_network("resnet50/fpn/retinanet"), CLASSES).double().eval()
    pixels = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = list(theirs.double().backbone(pixels).values())
        load_strictly(ours, from_torchvision(state), "published.pth")
        other_eps = ours.neck(ours.backbone(pixels))  # type: ignore[misc]
        load_strictly(ours, from_torchvision(state, eps=0.0), "published.pth")
        found = ours.neck(ours.backbone(pixels))  # type: ignore[misc]
    for a, b, c in zip(found, expected, other_eps, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
        assert (a - c).abs().max() > 1e-6


def _freeze(module: nn.Module) -> int:
    """Replace batch norms by torchvision's frozen ones with eps 0; how many."""
    norms = [name for name, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for name in norms:
        module.set_submodule(name, FrozenBatchNorm2d(module.get_submodule(name).num_features, eps=0.0))  # type: ignore[arg-type]
    return len(norms)


def test_foreign_names_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"backbone\.fpn\.inner_blocks\.7"):
        from_torchvision({"backbone.fpn.inner_blocks.7.0.weight": torch.zeros(1)})
