from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import detsearch.build
from detsearch.arch.catalogue import Catalogue, Descriptor
from detsearch.arch.code import parse_module, parse_network
from detsearch.arch.modules import MODULES
from detsearch.arch.spec import ModuleSpec, NetworkSpec
from detsearch.build import build
from detsearch.errors import SpecError
from detsearch.nn.structures import Detections, ImageBatch, Proposals, Targets
from tests.nn.scenes import random_images, random_targets


def test_parts_are_joined_by_their_features() -> None:
    detector = build(parse_network("basicblock_8_1-2-2-2/fpn(levels=3-6,width=16)/retinanet(depth=1,width=24)/gn"), 5)
    assert detector.num_classes == 5
    assert detector.backbone.out.channels == (8, 16, 32, 64)
    assert detector.neck is not None
    assert detector.neck.out.levels == (3, 6)
    assert detector.head.class_logits.out_channels == 9 * 5  # type: ignore[attr-defined]
    assert detector.head.class_logits.in_channels == 24  # type: ignore[attr-defined]


def test_weights_follow_the_seed() -> None:
    network = parse_network("basicblock_8_1-2-2-2/fpn(width=16)/retinanet(depth=1)")
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build(network, 2).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_impossible_combinations_are_refused() -> None:
    network = parse_network("basicblock_8_1-2-2-2/fpn(width=16)/retinanet")
    with pytest.raises(SpecError, match="neck"):
        build(NetworkSpec(backbone=network.neck or network.head, head=network.head), 2)
    with pytest.raises(SpecError, match="proposals beside 2fc"):
        build(NetworkSpec(backbone=network.backbone, head=parse_module("2fc", "head")), 2)


@dataclass(frozen=True)
class WholeImageSpec(ModuleSpec):
    """Proposes the image."""


@dataclass(frozen=True)
class EchoSpec(ModuleSpec):
    """Answers with the proposals."""


class WholeImage(nn.Module):
    def propose(
        self, features: list[Tensor], images: ImageBatch, targets: Targets | None
    ) -> tuple[Proposals, dict[str, Tensor]]:
        sizes = images.sizes.flip(1)[:, None].to(features[0].dtype)
        boxes = torch.cat([torch.zeros_like(sizes), sizes], dim=2)
        losses = {} if targets is None else {"proposal": features[0].sum()}
        return Proposals(
            boxes, torch.ones_like(boxes[..., 0]), torch.ones_like(boxes[..., 0], dtype=torch.bool)
        ), losses


class Echo(nn.Module):
    def losses(
        self, features: list[Tensor], images: ImageBatch, targets: Targets, proposals: Proposals
    ) -> dict[str, Tensor]:
        return {"echo": (proposals.boxes - targets.boxes[:, :1]).abs().sum()}

    def detect(self, features: list[Tensor], images: ImageBatch, proposals: Proposals) -> Detections:
        labels = torch.zeros_like(proposals.scores, dtype=torch.int64)
        return Detections(proposals.boxes, proposals.scores, labels, proposals.valid)


def build_whole_image(_: ModuleSpec, **given: Any) -> WholeImage:
    assert given.keys() == {"features", "norm"}
    return WholeImage()


def build_echo(_: ModuleSpec, **given: Any) -> Echo:
    assert given.keys() == {"features", "num_classes", "norm"}
    return Echo()


def test_proposals_reach_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two-stage detectors need nothing but two more modules."""
    toys = (
        Descriptor(
            slot="proposals", token="whole", spec=WholeImageSpec, builder=f"{__name__}:build_whole_image", summary="toy"
        ),
        Descriptor(slot="head", token="echo", spec=EchoSpec, builder=f"{__name__}:build_echo", summary="toy"),
    )
    monkeypatch.setattr(detsearch.build, "catalogue", lambda: Catalogue((*MODULES, *toys)))
    network = NetworkSpec(backbone=parse_module("basicblock_8_1-2-2-2"), proposals=WholeImageSpec(), head=EchoSpec())
    detector = build(network, 1)
    assert list(detector.parts()) == ["backbone", "proposals", "head"]
    images, targets = random_images([(40, 64)], (64, 64)), random_targets([1], [(40, 64)], 1)
    assert detector.losses(images, targets).keys() == {"proposal", "echo"}
    assert detector.detect(images).boxes.tolist() == [[[0, 0, 64, 40]]]
