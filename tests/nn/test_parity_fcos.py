"""FCOS and RetinaNet v2 (group norm in the towers, GIoU loss, extra levels from the backbone's last map) here and
torchvision's: same state and same preprocessed batch give the same detections, losses and gradients."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet, fcos_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.retinanet import RetinaNetHead, _default_anchorgen
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detsearch.nn.detector import Detector
from detsearch.nn.torchvision_weights import from_torchvision, to_torchvision
from tests.nn.parity import (
    BODY,
    CASES,
    SlimBackbone,
    answers,
    as_lists,
    losses,
    noise,
    same_detections,
    same_gradients,
    same_losses,
    settle,
    twin,
)
from tests.nn.scenes import random_targets

CLASSES = 6
WIDTH = 64  # two channels in each of the 32 groups: torchvision refuses a single value, as a 1 x 1 map would have
NETWORKS = {
    "fcos": f"{BODY}/fpn(width={WIDTH})/fcos",
    "retinanet_v2": f"{BODY}/fpn(width={WIDTH},extra_from=c5)/retinanet(norm=gn,loss=giou)",
}
R50 = {"fcos": "resnet50/fpn/fcos", "retinanet_v2": "resnet50/fpn(extra_from=c5)/retinanet(norm=gn,loss=giou)"}
NAMES = {
    "fcos": {"classification": "classification", "box": "bbox_regression", "centreness": "bbox_ctrness"},
    "retinanet_v2": {"classification": "classification", "box": "bbox_regression"},
}
DEVIATIONS = {"cls_logits": 1.0, "bbox_reg": 1.0, "bbox_ctrness": 1.0}
V2_DEVIATIONS = {**DEVIATIONS, "bbox_reg": 0.2}
THRESHOLD = 0.3


def slim(form: str) -> nn.Module:
    """torchvision's, slim."""
    channels = WIDTH if form == "fcos" else 128
    backbone = SlimBackbone((3, 4, 5), WIDTH, LastLevelP6P7(channels, WIDTH))
    if form == "fcos":
        return FCOS(backbone, CLASSES, score_thresh=THRESHOLD)
    anchors = _default_anchorgen()
    head = RetinaNetHead(WIDTH, anchors.num_anchors_per_location()[0], CLASSES, norm_layer=partial(nn.GroupNorm, 32))
    head.regression_head._loss_type = "giou"
    return RetinaNet(backbone, CLASSES, anchor_generator=anchors, head=head, score_thresh=THRESHOLD)


def r50(form: str) -> nn.Module:
    make = fcos_resnet50_fpn if form == "fcos" else retinanet_resnet50_fpn_v2
    model: nn.Module = make(weights=None, weights_backbone=None, num_classes=CLASSES, score_thresh=THRESHOLD)
    return model


def plausible(form: str, reference: nn.Module, seed: int = 0) -> nn.Module:
    reference.double()
    sizes = [(96, 128), (90, 120)]
    targets = random_targets([4, 3], sizes, CLASSES, dtype=torch.float64)
    deviations = DEVIATIONS if form == "fcos" else V2_DEVIATIONS
    settle(reference, noise(sizes, (96, 128), torch.float64, seed), as_lists(targets), deviations, seed)
    return reference


def twin_of(reference: nn.Module, network: str) -> Detector:
    detector = twin(reference, network, CLASSES)
    detector.head.score_threshold = THRESHOLD
    return detector


@pytest.fixture(
    scope="module",
    params=[("fcos", 0), ("fcos", 1), ("fcos", 2), ("retinanet_v2", 0), ("retinanet_v2", 1)],
    ids=lambda p: f"{p[0]}-{p[1]}",
)
def exact(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Detector]:
    form, seed = request.param
    torch.manual_seed(seed)
    reference = plausible(form, slim(form), seed)
    return form, reference, twin_of(reference, NETWORKS[form])


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def pair(request: pytest.FixtureRequest, exact: tuple[str, nn.Module, Detector]) -> Any:
    form, reference, detector = exact
    state = {key: value.clone() for key, value in reference.state_dict().items()}
    yield form, reference.to(request.param), detector.to(request.param)
    reference.double().load_state_dict(state)
    detector.double().load_state_dict(from_torchvision(state))


@pytest.mark.parametrize("case", CASES)
def test_detections(case: str, pair: tuple[str, nn.Module, Detector]) -> None:
    _, reference, detector = pair
    batch = noise(*CASES[case], next(detector.parameters()).dtype)
    found = detector.detect(batch)
    for i, their in enumerate(answers(reference, batch)):
        assert len(their["boxes"]) >= 50
        same_detections(found, i, their, exact=batch.pixels.dtype == torch.float64)


@pytest.mark.parametrize(
    ("case", "counts"),
    [
        ("landscape", [4]),
        ("portrait", [30]),
        ("tiny", [2]),
        ("four of different sizes", [5, 0, 3, 1]),
        ("four of different sizes", [0, 0, 0, 0]),
    ],
)
def test_losses(case: str, counts: list[int], pair: tuple[str, nn.Module, Detector]) -> None:
    form, reference, detector = pair
    batch = noise(*CASES[case], next(detector.parameters()).dtype)
    targets = random_targets(counts, CASES[case][0], CLASSES, dtype=batch.pixels.dtype)
    found = detector.losses(batch, targets)
    same_losses(found, losses(reference, batch, as_lists(targets)), NAMES[form])
    assert (found["box"] > 0) == any(counts)


@pytest.mark.parametrize("counts", [[5, 0, 3, 1], [0, 0, 0, 0]], ids=["objects", "none"])
def test_gradients(counts: list[int], exact: tuple[str, nn.Module, Detector]) -> None:
    _, reference, detector = exact
    sizes, padded = CASES["four of different sizes"]
    batch, targets = noise(sizes, padded, torch.float64), random_targets(counts, sizes, CLASSES, dtype=torch.float64)
    torch.stack(list(losses(reference, batch, as_lists(targets)).values())).sum().backward()
    torch.stack(list(detector.losses(batch, targets).values())).sum().backward()
    same_gradients(detector, reference)


def test_the_published_file_has_older_names() -> None:
    """torchvision's FCOS file is older than the wrapping of a pyramid's convolutions; its towers never changed."""
    state = slim("fcos").state_dict()
    old = {re.sub(r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2.", key): value for key, value in state.items()}
    assert sum(key not in state for key in old) == 12
    assert from_torchvision(old).keys() == from_torchvision(state).keys()


@pytest.mark.parametrize("form", ["fcos", "retinanet_v2"])
def test_resnet50(form: str) -> None:
    """At full depth and width, and the defaults of both sides but for the threshold."""
    torch.manual_seed(3)
    reference = plausible(form, r50(form))
    detector = twin_of(reference, R50[form])
    batch = noise(*CASES["landscape"], torch.float64)
    targets = random_targets([4], CASES["landscape"][0], CLASSES, dtype=torch.float64)
    found = detector.detect(batch)
    (their,) = answers(reference, batch)
    assert len(their["boxes"]) >= 50
    same_detections(found, 0, their, exact=True)
    same_losses(detector.losses(batch, targets), losses(reference, batch, as_lists(targets)), NAMES[form])
    state = reference.state_dict()
    back = to_torchvision(from_torchvision(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    if form == "fcos":
        fresh, theirs = twin(reference, R50[form], CLASSES).head, fcos_resnet50_fpn(weights=None, weights_backbone=None)
        assert (fresh.score_threshold, fresh.nms_threshold, fresh.max_detections, fresh.candidates, fresh.radius) == (  # type: ignore[attr-defined]
            theirs.score_thresh, theirs.nms_thresh, theirs.detections_per_img, theirs.topk_candidates,
            theirs.center_sampling_radius,
        )  # fmt: skip
