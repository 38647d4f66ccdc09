"""The modules that come with detsearch, as data: their fields, what they may stand beside, what makes them deeper or
wider, and where their builders are."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from detsearch.arch import blockcode
from detsearch.arch.blockcode import BlockCode, Stem, StrideIn
from detsearch.arch.catalogue import ABSENT, Descriptor
from detsearch.arch.spec import ModuleSpec
from detsearch.errors import SpecError

BACKBONE_LEVELS: Final = (2, 3, 4, 5)
HIGHEST_LEVEL: Final = 7

ExtraFrom = Literal["p5", "c5"]


def within(field: str, value: float, low: float, high: float) -> None:
    """Raise SpecError unless low <= value <= high."""
    if not low <= value <= high:
        raise SpecError(field, f"{low} to {high}", str(value))


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
        if self.stem not in blockcode.STEMS:
            raise SpecError("stem", " or ".join(blockcode.STEMS), repr(self.stem))
        if self.stride_in not in get_args(StrideIn):
            raise SpecError("stride_in", "3x3 or 1x1", repr(self.stride_in))
        if self.stride_in == "1x1" and self.code.block not in ("bottleneck", "Xbottleneck"):
            raise SpecError("stride_in", f"3x3 for a {self.code.block}, which begins with no 1x1 to stride in", "1x1")


@dataclass(frozen=True)
class TimmSpec(ModuleSpec):
    """Any timm model that gives out feature maps, by its timm name. Maps P2..P5."""

    model: str

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64})?", self.model) is None:
            raise SpecError("model", "a timm model name", repr(self.model))


@dataclass(frozen=True)
class FPNSpec(ModuleSpec):
    """Feature pyramid over any set of levels (Lin et al., CVPR 2017); levels above P5 by stride-2 convolutions as in
    RetinaNet, beginning at `extra_from`: the last FPN map or the last backbone map."""

    levels: tuple[int, ...] = (3, 4, 5, 6, 7)
    width: int = 256
    extra_from: ExtraFrom = "p5"

    def __post_init__(self) -> None:
        if not self.levels or list(self.levels) != sorted(set(self.levels)):
            raise SpecError("levels", "ascending levels without repetition such as 3-4-5", _joined(self.levels))
        if self.levels[0] < BACKBONE_LEVELS[0] or self.levels[-1] > HIGHEST_LEVEL:
            raise SpecError("levels", f"levels from {BACKBONE_LEVELS[0]} to {HIGHEST_LEVEL}", _joined(self.levels))
        within("width", self.width, 8, 2048)
        if self.extra_from not in get_args(ExtraFrom):
            raise SpecError("extra_from", "p5 or c5", repr(self.extra_from))


@dataclass(frozen=True)
class RetinaNetHeadSpec(ModuleSpec):
    """Two towers of convolutions over every level, for classes and boxes (Lin et al., ICCV 2017).

    `width` of the towers (0: that of the maps), `depth` their number of convolutions, `anchor_scale` the smallest
    anchor's side in units of the stride (published: 4, so 32 pixels on P3).
    """

    width: int = 0
    depth: int = 4
    anchor_scale: float = 4.0

    def __post_init__(self) -> None:
        if self.width:
            within("width", self.width, 8, 2048)
        within("depth", self.depth, 1, 16)
        within("anchor_scale", self.anchor_scale, 0.5, 32)


def _joined(levels: tuple[int, ...]) -> str:
    return "-".join(map(str, levels)) or "none"


def _width_or_followed(a: int, b: int) -> bool:
    """Order of a width in which 0 follows the maps: comparable with itself only."""
    return a == b or 0 < a <= b


def _coded(code: str, stem: Stem = "7x7") -> CodedResNetSpec:
    return CodedResNetSpec(BlockCode.parse(code), stem)


def _backbone_levels(_: ModuleSpec, __: tuple[int, ...]) -> tuple[int, ...]:
    return BACKBONE_LEVELS


def _fpn_levels(spec: FPNSpec, below: tuple[int, ...]) -> tuple[int, ...]:
    """Levels that an FPN gives out: its lateral ones must be among the backbone's, where those are known."""
    missing = [level for level in spec.levels if below and level <= below[-1] and level not in below]
    if missing:
        raise SpecError("levels of fpn", f"levels of the backbone ({_joined(below)}) or above", _joined(spec.levels))
    return spec.levels


CLASSICAL: Final[Mapping[str, ModuleSpec]] = {
    "resnet18": _coded("basicblock_64_11-21-21-21"),
    "resnet34": _coded("basicblock_64_111-2111-211111-211"),
    "resnet50": _coded("bottleneck_64_111-2111-211111-211"),
    "resnet101": _coded(f"bottleneck_64_111-2111-2{'1' * 22}-211"),
}

MODULES: Final[tuple[Descriptor, ...]] = (
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
    Descriptor(
        slot="neck",
        token="fpn",
        spec=FPNSpec,
        builder="detsearch.nn.necks.fpn:build_fpn",
        summary="feature pyramid over any set of levels P2..P7",
        order={"width": operator.le},
        levels=_fpn_levels,
    ),
    Descriptor(
        slot="head",
        token="retinanet",
        spec=RetinaNetHeadSpec,
        builder="detsearch.nn.heads.retinanet:build_retinanet",
        summary="one-stage head: two towers, nine anchors a place, focal loss",
        beside={"proposals": (ABSENT,), "neck": ("*",)},
        order={"width": _width_or_followed, "depth": operator.le},
    ),
)
