"""Figures that papers give for their detectors, to stand beside ours. None of them was measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from detsearch.arch.presets import preset
from detsearch.arch.spec import DetectorSpec, ModuleSpec
from detsearch.types import InputSize


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """`ap` on COCO's val split and `top1` of the backbone on ImageNet at 224 x 224, as fractions; `latency_ms` on
    `latency_device`. `backbone_macs` at the detector's input; `classifier_params` and `classifier_macs` of the backbone
    as an ImageNet classifier. None: not given."""

    source: str
    ap: float
    latency_ms: float
    latency_device: str
    top1: float
    backbone_macs: float | None = None
    classifier_params: float | None = None
    classifier_macs: float | None = None


def _sm_nas(
    ap: float,
    latency_ms: float,
    top1: float,
    backbone: float | None = None,
    params: float | None = None,
    macs: float | None = None,
) -> Published:
    return Published(
        source="SM-NAS (Yao et al., AAAI 2020)",
        ap=ap,
        latency_ms=latency_ms,
        latency_device="V100",
        top1=top1,
        backbone_macs=backbone,
        classifier_params=params,
        classifier_macs=macs,
    )


PUBLISHED: Final[Mapping[str, Published]] = {
    "E0": _sm_nas(0.271, 24.5, 0.7128, 7.16e9, 8.15e6, 1.37e9),
    "E1": _sm_nas(0.343, 32.2, 0.7413, 28.33e9),
    "E2": _sm_nas(0.401, 39.5, 0.7366, 23.81e9),
    "E3": _sm_nas(0.427, 50.7, 0.7827, 59.22e9, 29.96e6),
    "E4": _sm_nas(0.439, 80.2, 0.7907),
    "E5": _sm_nas(0.461, 108.1, 0.7903),
}
"""By preset. E1's and E2's MACs do not follow from their codes, and for E3 as a classifier the paper gives two figures
that exclude each other, so none stands here: docs/reproduction.md."""


def published(spec: DetectorSpec) -> Published | None:
    """What was published of a detector, however it is called; None of most."""
    return next((figures for name, figures in PUBLISHED.items() if preset(name) == spec), None)


def published_of_backbone(backbone: ModuleSpec) -> tuple[InputSize, Published] | None:
    """What was published of the detector with this backbone, and its input; None of most."""
    found = ((preset(name), figures) for name, figures in PUBLISHED.items())
    return next(((spec.input, figures) for spec, figures in found if spec.network.backbone == backbone), None)
