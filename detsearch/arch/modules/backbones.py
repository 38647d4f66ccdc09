"""Backbones as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from detsearch.arch import blockcode
from detsearch.arch.blockcode import FIRST_STAGE, GROUP_WIDTH, LAST_STAGE, BlockCode, Stem, StrideIn
from detsearch.arch.catalogue import Descriptor
from detsearch.arch.modules.fields import BACKBONE_LEVELS, among, same_or_wider, within
from detsearch.arch.spec import ModuleSpec
from detsearch.errors import SpecError
from detsearch.types import InputSize

DEEPEST: Final = (FIRST_STAGE, LAST_STAGE)
"""From where to where a backbone may end."""


@dataclass(frozen=True)
class CodedResNetSpec(ModuleSpec):
    """ResNet, ResNeXt or MobileNetV2-like backbone written as a block code. Maps P2..P`last`; later stages are not
    built.

    `stride_in`: the convolution of a bottleneck that halves the resolution (``1x1`` as first published, ``3x3`` as in
    torchvision); the other blocks have no such choice and refuse ``1x1``. `groups` of an Xbottleneck's 3x3 convolution,
    and the channels of each at the base width (`group_width`), which double where the width does; 0 stands for base/2
    groups and for 4 channels, and whoever says as much means 0, so that a network has one text.
    """

    code: BlockCode
    stem: Stem = "deep"
    stride_in: StrideIn = "3x3"
    groups: int = 0
    group_width: int = 0
    last: int = LAST_STAGE

    def __post_init__(self) -> None:
        among("stem", self.stem, Stem)
        among("stride_in", self.stride_in, StrideIn)
        if self.stride_in == "1x1" and self.code.block not in ("bottleneck", "Xbottleneck"):
            raise SpecError("stride_in", f"3x3 for a {self.code.block}, which begins with no 1x1 to stride in", "1x1")
        for field, default in (("groups", self.code.base // 2), ("group_width", GROUP_WIDTH)):
            value = getattr(self, field)
            if value and self.code.block != "Xbottleneck":
                raise SpecError(field, f"0 for a {self.code.block}, which has no groups", str(value))
            within(field, value, 0, 1024)
            if value == default:
                object.__setattr__(self, field, 0)
        within("last", self.last, *DEEPEST)

    @property
    def params(self) -> int:
        """Parameters in closed form, norms included."""
        return self.code.params(self.stem, groups=self.groups, group_width=self.group_width, last=self.last)

    def macs(self, size: InputSize) -> int:
        """Multiply-accumulates in closed form, for a tensor of `size`."""
        grouped = {"groups": self.groups, "group_width": self.group_width}
        return self.code.macs(size, self.stem, self.stride_in, **grouped, last=self.last)


@dataclass(frozen=True)
class TimmSpec(ModuleSpec):
    """Any timm model that gives out feature maps, by its timm name. Maps P2..P`last`; later stages are not built."""

    model: str
    last: int = LAST_STAGE

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64})?", self.model) is None:
            raise SpecError("model", "a timm model name", repr(self.model))
        within("last", self.last, *DEEPEST)


def _coded(code: str, groups: int = 0, group_width: int = 0) -> CodedResNetSpec:
    return CodedResNetSpec(BlockCode.parse(code), "7x7", groups=groups, group_width=group_width)


def _backbone_levels(spec: CodedResNetSpec | TimmSpec, _: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(level for level in BACKBONE_LEVELS if level <= spec.last)


def _group_width_leq(a: int, b: int) -> bool:
    return (a or GROUP_WIDTH) <= (b or GROUP_WIDTH)


_DEPTH_50: Final = "111-2111-211111-211"
_DEPTH_101: Final = f"111-2111-2{'1' * 22}-211"


CLASSICAL: Final[Mapping[str, CodedResNetSpec]] = {
    "resnet18": _coded("basicblock_64_11-21-21-21"),
    "resnet34": _coded("basicblock_64_111-2111-211111-211"),
    "resnet50": _coded(f"bottleneck_64_{_DEPTH_50}"),
    "resnet101": _coded(f"bottleneck_64_{_DEPTH_101}"),
    "resnext50_32x4d": _coded(f"Xbottleneck_64_{_DEPTH_50}"),
    "resnext50": _coded(f"Xbottleneck_64_{_DEPTH_50}"),
    "resnext101_32x4d": _coded(f"Xbottleneck_64_{_DEPTH_101}"),
    "resnext101_32x8d": _coded(f"Xbottleneck_64_{_DEPTH_101}", group_width=8),
    "resnext101_64x4d": _coded(f"Xbottleneck_64_{_DEPTH_101}", groups=64),
}

MOBILENETV2: Final = CodedResNetSpec(BlockCode.parse("mbblock_24_11-121-1112111-2111"))
"""The code nearest to MobileNetV2 (Sandler et al., CVPR 2018, table 2), whose widths do not all double: its blocks in
each stage, and within 6 % its MACs."""


def coded(backbone: ModuleSpec) -> CodedResNetSpec:
    """A backbone as a code, or the code nearest to it that has the same kind of block: what SM-NAS's stage two starts
    from. timm's ResNets and ResNeXts are codes; its MobileNetV2 has the blocks of `mbblock`. SpecError for others."""
    if isinstance(backbone, CodedResNetSpec):
        return backbone
    if isinstance(backbone, TimmSpec):
        name = backbone.model.partition(".")[0]  # behind the dot: which weights
        if (found := {**CLASSICAL, "mobilenetv2_100": MOBILENETV2}.get(name)) is not None:
            return replace(found, last=backbone.last)
    received = backbone.model if isinstance(backbone, TimmSpec) else type(backbone).__name__
    named = ", ".join(sorted(CLASSICAL))
    raise SpecError("backbone", f"one whose blocks have a code: a block code, {named} or mobilenetv2", received)


BACKBONES: Final = (
    Descriptor(
        slot="backbone",
        token="coded",
        spec=CodedResNetSpec,
        builder="detsearch.nn.backbones.coded:build_coded",
        summary="ResNet family as a block code: any depth, width and places of doubling",
        atom=("code", r"[A-Za-z]+_[0-9]+_[A-Za-z0-9_.\-]*"),
        order={"code": blockcode.leq, "groups": same_or_wider, "group_width": _group_width_leq},
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
