"""The insides of several structures as one space (SM-NAS, stage two)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from detsearch.arch.code import format_detector
from detsearch.arch.spaces.modular import MODULES, ModularSpace
from detsearch.arch.spaces.union import Union
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import RecipeError

STRUCTURES: Final = "structures"
"""What the section `modules` calls a list of structures, in place of one `structure`."""
_WHERE: Final = f"space.{MODULES}.{STRUCTURES}"


@dataclass(frozen=True)
class StructuresSpace(Union):
    """Modular spaces of structures that differ in more than what varies inside of them."""

    parts: tuple[ModularSpace, ...]

    @property
    def baselines(self) -> tuple[DetectorSpec, ...]:
        """The structures as they are, with the norm that their members have."""
        return tuple(part.structure.with_network(norm=part.norm) for part in self.parts)

    def fault(self, spec: DetectorSpec) -> str | None:
        """Why a detector is no member, told by the part that it is most like; None where it is one."""
        return None if self.contains(spec) else max(self.parts, key=lambda part: part.likeness(spec)).fault(spec)

    def to_choices(self) -> dict[str, dict[str, Any]]:
        """The section, with every field: what identifies a space. All parts have the same widths, or none."""
        shared = max(self.parts, key=lambda part: len(part.widths)).to_choices()[MODULES]
        del shared["structure"]
        return {MODULES: {STRUCTURES: [format_detector(part.structure) for part in self.parts], **shared}}


def read_modular(section: Any) -> ModularSpace | StructuresSpace:
    """A recipe's section: the fields of `ModularChoices`, with one `structure` or a list of `structures`, of which
    those whose neck has no width do without. RecipeError names the field."""
    if not isinstance(section, Mapping) or STRUCTURES not in section:
        return ModularSpace.from_section(section)
    texts = section[STRUCTURES]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RecipeError(_WHERE, "a list of one or more presets and codes", repr(texts))
    if "structure" in section:
        raise RecipeError(f"space.{MODULES}", f"structure or {STRUCTURES}", "both")
    shared = {name: value for name, value in section.items() if name != STRUCTURES}
    parts = tuple(ModularSpace.from_section({**shared, "structure": text}, shared=True) for text in texts)
    for number, part in enumerate(parts):
        twin = next((n for n, other in enumerate(parts[:number]) if other.frame == part.frame), None)
        if twin is not None:
            received = f"{texts[twin]!r} and {texts[number]!r}, which differ in backbone code or width only"
            raise RecipeError(_WHERE, "structures with different insides", received, "leave one of them out")
    return StructuresSpace(parts)
