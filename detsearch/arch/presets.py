"""Published detectors by name, and the one function that reads whatever a user calls a detector."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import MAX_LENGTH, parse_detector, parse_module, parse_network
from detsearch.arch.spec import DetectorSpec, ModuleSpec, Norm
from detsearch.errors import SpecError
from detsearch.types import InputSize

_POOLED: Final = "fpn(levels=2-3-4-5-6,extra_from=pool)"
FAMILIES: Final[Mapping[str, str]] = {
    "faster_rcnn": f"{_POOLED}/rpn/2fc",  # with FPN, Lin et al., CVPR 2017
    "retinanet": "fpn(extra_from=c5)/retinanet",  # Lin et al., ICCV 2017
    "cascade_rcnn": f"{_POOLED}/rpn/cascade",  # Cai and Vasconcelos, CVPR 2018
    "ga_faster_rcnn": f"{_POOLED}/ga_rpn/2fc",  # Wang et al., CVPR 2019
    "fcos": "fpn/fcos",  # Tian et al., TPAMI 2020
    "mask_rcnn": f"{_POOLED}/rpn/2fc(mask=mask)",  # He et al., ICCV 2017
    "ms_rcnn": f"{_POOLED}/rpn/2fc(mask=mask(score=maskiou))",  # Huang et al., CVPR 2019
    # With searched heads, Zhong et al., ECCV 2020; the masks' cell is ours (`arch.cells.MASK_CELL`).
    "fad_fcos": "fpn/fcos(tower=cells)",
    "fad_retinanet": "fpn(extra_from=c5)/retinanet(tower=cells)",
    "fad_mask_rcnn": f"{_POOLED}/rpn/2fc(mask=mask(tower=cellgroup))",
    "fad_ms_rcnn": f"{_POOLED}/rpn/2fc(mask=mask(score=maskiou,tower=cellgroup))",
}
"""What stands behind the backbone, as published."""
BACKBONES: Final[Mapping[str, str]] = {
    "r18": "resnet18",
    "r34": "resnet34",
    "r50": "resnet50",
    "r101": "resnet101",
    "x101_64x4d": "resnext101_64x4d",
    "mobilenetv2": "mobilenetv2",
}
SM_NAS: Final[Mapping[str, str]] = {
    "E0": "basicblock_64_1-21-21-12/fpn(levels=3-4-5-6,width=128)/rpn/2fc@512x512",
    "E1": "basicblock_56_111-2111-2-111112/fpn(levels=3-4-5-6)/rpn/2fc@800x600",
    "E2": "basicblock_48_12-11111-211-1112/fpn(levels=2-3-4-5-6,width=128)/rpn/cascade@800x600",
    "E3": "bottleneck_56_211-111111111-2111111-11112111/fpn(levels=2-3-4-5-6,width=128)/rpn/cascade@800x600",
    "E4": "Xbottleneck_56_21-21-111111111111111-2111111/fpn(levels=2-3-4-5-6)/ga_rpn/cascade@800x600",
    "E5": "Xbottleneck_56_21-21-11111111111111-21111111/fpn(levels=2-3-4-5-6)/ga_rpn/cascade@1333x800",
}
"""What SM-NAS found (Yao et al., AAAI 2020), in its final form, with batch norm; what the paper says of them is in
`arch.published`."""
PRESETS: Final[Mapping[str, str]] = {
    f"{family}_{short}_fpn": f"{backbone}/{rest}@1333x800"
    for family, rest in FAMILIES.items()
    for short, backbone in BACKBONES.items()
} | {
    **SM_NAS,
    "retinanet_slim": "basicblock_16_11-21-21-21/fpn(levels=3-4-5-6,width=64)/retinanet(depth=2)/gn_ws@320x256",
}
"""Detector text by name. `retinanet_slim` is ours, sized for a CPU."""

IMAGENET: Final = InputSize(224, 224)
"""Where classifiers are trained and compared."""

SUFFIXES: Final = (".txt", ".spec")
"""Text that ends so is a file's name, whether or not there is such a file."""
_CODE: Final = re.compile(r"[A-Za-z]+_[0-9]+_[0-9]")
"""What is meant as a block code, whether or not it is one."""


def preset(name: str) -> DetectorSpec:
    """A detector by its name; SpecError with a suggestion."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"did you mean {near[0]}?" if near else None
        if _is_backbone(name):
            hint = f"a backbone alone is no detector; add the rest, as in {name}/fpn/retinanet@512x512"
        families = f"one of {', '.join(FAMILIES)} with _{', _'.join(BACKBONES)} and _fpn"
        listed = f"{families}, {', '.join(SM_NAS)} or retinanet_slim"
        raise SpecError("preset", listed, repr(name), hint)
    return parse_detector(PRESETS[name])


def resolve(text: str, size: InputSize | None = None) -> DetectorSpec:
    """Read a preset's name (with ``@WxH`` for another input size), a detector or network text, or the path of a file
    that holds one of them on its first line.

    `size` overrides the input size; it is needed where the text is a network without one.
    """
    text = text.strip()
    # os.path, not Path: it answers no, where Path raises, for text that no file system would take as a name.
    if text not in PRESETS and (text.endswith(SUFFIXES) or os.path.isfile(text)):
        line = _first_line(Path(text))
        try:
            return _resolve_text(line, size)
        except SpecError as error:
            raise error.within(text) from None
    if "@" not in text and os.path.isdir(text):
        raise SpecError(text, "a preset, a detector, or a text file with one on its first line", "a folder")
    return _resolve_text(text, size)


def _resolve_text(text: str, size: InputSize | None) -> DetectorSpec:
    name, at, own_size = text.partition("@")
    if name.strip() in PRESETS:
        spec = preset(name.strip())
        if at:
            spec = spec.network.at(InputSize.parse(own_size))
            catalogue().check_input(spec)
    elif at:
        spec = parse_detector(text)
    elif size is not None and ("/" in text or "(" in text):
        spec = parse_network(text).at(size)
    elif "/" in text or "(" in text:
        parse_network(text)  # a mistake in it is the better message
        raise SpecError("detector", "an input size", repr(text), "add @WxH or --input WxH")
    else:
        spec = preset(text)
    if size is not None:
        spec = spec.network.at(size)
        catalogue().check_input(spec)
    return spec


def resolve_backbone(text: str, size: InputSize | None = None) -> tuple[ModuleSpec, Norm, InputSize]:
    """Read a backbone's text, or whatever `resolve` reads, and take its backbone: with the norm, ``bn`` for a backbone
    alone, and `size`, or else the detector's input, or ImageNet's for a backbone alone."""
    text = text.strip()
    if text not in PRESETS and (_CODE.match(text) or _is_backbone(text)) and not set("/@") & set(text):
        return parse_module(text, "backbone"), "bn", size or IMAGENET
    spec = resolve(text, size)
    return spec.network.backbone, spec.network.norm, spec.input


def _is_backbone(text: str) -> bool:
    try:
        parse_module(text, "backbone")
    except SpecError:
        return False
    return True


def _first_line(path: Path) -> str:
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "something else" if os.path.exists(path) else "no such file"
        raise SpecError(str(path), "a text file with a detector on its first line", found)
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(MAX_LENGTH + 2).strip()
    except UnicodeDecodeError:
        raise SpecError(str(path), "a text file with a detector on its first line", "bytes that are no text") from None
    except OSError as error:
        raise SpecError(str(path), "a readable text file", error.strerror) from None
    if not line:
        raise SpecError(str(path), "a detector on the first line", "nothing")
    return line
