"""Backbones as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from detsearch.arch import blockcode
from detsearch.arch.blockcode import BlockCode, Stem, StrideIn
from detsearch.arch.catalogue import Descriptor
from detsearch.arch.modules.fields import BACKBONE_LEVELS, among
from detsearch.arch.spec import ModuleSpec
from detsearch.errors import SpecError


@dataclass(frozen=True)
class CodedResNetSpec(ModuleSpec):
    """ResNet, ResNeXt or MobileNetV2-like backbone written as a block code. Maps P2..P5.

    `stride_in`: the convolution of a bottleneck that halves the resolution (``1x1`` as first published, ``3x3`` as in
    torchvision); the other blocks have no such choice and refuse ``1x1``.
    """

    code: BlockCode
    stem: Stem = "deep"
    stride_in: StrideIn = "3x3"

    def __post_init__(self) -> None:
        among("stem", self.stem, Stem)
        among("stride_in", self.stride_in, StrideIn)
        if self.stride_in == "1x1" and self.code.block not in ("bottleneck", "Xbottleneck"):
            raise SpecError("stride_in", f"3x3 for a {self.code.block}, which begins with no 1x1 to stride in", "1x1")


@dataclass(frozen=True)
class TimmSpec(ModuleSpec):
    """Any timm model that gives out feature maps, by its timm name. Maps P2..P5."""

    model: str

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64})?", self.model) is None:
            raise SpecError("model", "a timm model name", repr(self.model))


def _coded(code: str, stem: Stem = "7x7") -> CodedResNetSpec:
    return CodedResNetSpec(BlockCode.parse(code), stem)


def _backbone_levels(_: ModuleSpec, __: tuple[int, ...]) -> tuple[int, ...]:
    return BACKBONE_LEVELS


CLASSICAL: Final[Mapping[str, ModuleSpec]] = {
    "resnet18": _coded("basicblock_64_11-21-21-21"),
    "resnet34": _coded("basicblock_64_111-2111-211111-211"),
    "resnet50": _coded("bottleneck_64_111-2111-211111-211"),
    "resnet101": _coded(f"bottleneck_64_111-2111-2{'1' * 22}-211"),
}

BACKBONES: Final = (
    Descriptor(
        slot="backbone",
        token="coded",
        spec=CodedResNetSpec,
        builder="detsearch.nn.backbones.coded:build_coded",
        summary="ResNet family as a block code: any depth, width and places of doubling",
        atom=("code", r"[A-Za-z]+_[0-9]+_[A-Za-z0-9_.\-]*"),
        order={"code": blockcode.leq},
        names=CLASSICAL,
        levels=_backbone_levels,
    ),
    Descriptor(
        slot="backbone",
        token="timm",
        spec=TimmSpec,
        builder="detsearch.nn.backbones.timm:build_timm",
        summary="a timm model with feature maps, by its name",
        names={"mobilenetv2": TimmSpec("mobilenetv2_100")},
        levels=_backbone_levels,
    ),
)
