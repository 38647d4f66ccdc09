"""What detectors differ in, as numbers and as choices: what an analysis of a search relates to their accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from detsearch.arch.blockcode import FIRST_STAGE
from detsearch.arch.catalogue import ABSENT
from detsearch.arch.code import format_module
from detsearch.arch.modules.backbones import coded
from detsearch.arch.spec import SLOTS, DetectorSpec, ModuleSpec

FACTORS: Final[Mapping[str, tuple[str, str]]] = {
    "depth": ("Depth", "blocks of the backbone"),
    "width": ("Width", "channels of the backbone before the first doubling"),
    **{
        f"dc{number}": (
            f"DC{number}",
            f"blocks before the {ordinal} doubling of the channels, as a share of all blocks",
        )
        for number, ordinal in enumerate(("first", "second", "third"), 1)
    },
    **{
        f"len{stage}": (f"Len{stage}", f"blocks of stage {stage} (stride {2**stage}), as a share of all blocks")
        for stage in range(2, 6)
    },
    "neck": ("Neck", "channels of the neck"),
}
"""The factors of SM-NAS's analysis, and the neck's width: a short title, and what the number is."""


def code_factors(spec: DetectorSpec) -> dict[str, float]:
    """The `FACTORS` that a detector has: no place of a doubling that there is not, no width of a neck without one.

    SpecError where the backbone has no block code. timm's MobileNetV2 counts as the code nearest to it.
    """
    code = coded(spec.network.backbone).code
    digits = "".join(code.stages)
    found = {"depth": float(code.depth), "width": float(code.base)}
    places = [at for at, digit in enumerate(digits) if digit == "2"]
    found |= {f"dc{number}": at / code.depth for number, at in enumerate(places, 1) if f"dc{number}" in FACTORS}
    found |= {f"len{number}": len(stage) / code.depth for number, stage in enumerate(code.stages, FIRST_STAGE)}
    width = getattr(spec.network.neck, "width", None)
    return found | ({"neck": float(width)} if isinstance(width, int) else {})


def choices(specs: Sequence[DetectorSpec]) -> dict[str, list[str]]:
    """What was chosen for each part of (n) detectors, as text: n values for ``input``, every slot and ``norm``.

    Where a slot has modules of one kind only and several of their fields vary, each of these is a choice of its own:
    ``neck levels`` and ``neck width`` in place of ``neck``.
    """
    found = {"input": [str(spec.input) for spec in specs]}
    for slot in SLOTS:
        modules = [spec.network.part(slot) for spec in specs]
        varying = _varying_fields(modules)
        if len(varying) > 1:
            found |= {f"{slot} {name}": [_text(getattr(module, name)) for module in modules] for name in varying}
        else:
            found[slot] = [_text(module) for module in modules]
    return found | {"norm": [spec.network.norm for spec in specs]}


def _varying_fields(modules: Sequence[ModuleSpec | None]) -> list[str]:
    """The fields in which modules of one kind differ; none where they are not of one kind."""
    first = modules[0] if modules else None
    if first is None or {type(module) for module in modules} != {type(first)}:
        return []
    return [f.name for f in fields(first) if len({getattr(module, f.name) for module in modules}) > 1]


def _text(value: Any) -> str:
    if isinstance(value, ModuleSpec):
        return format_module(value)
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return ABSENT if value is None else str(value)
