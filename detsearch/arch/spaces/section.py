"""The section `space` of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, Final, TypeAlias

from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.heads import CELLS, HeadSpace
from detsearch.arch.spaces.listed import DETECTORS, ListedSpace
from detsearch.arch.spaces.modular import MODULES, ModularSpace
from detsearch.arch.spaces.structural import MAX_COMBINATIONS, StructuralSpace
from detsearch.arch.spaces.structures import StructuresSpace, read_modular
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import RecipeError

AnySpace: TypeAlias = StructuralSpace | ListedSpace | ModularSpace | StructuresSpace | HeadSpace

ALONE: Final[Mapping[str, Callable[[Any], AnySpace]]] = {
    DETECTORS: ListedSpace.from_entries,
    MODULES: read_modular,
    CELLS: HeadSpace.from_section,
}
"""Keys that stand for a whole space."""


def read_space(section: Mapping[str, Any]) -> AnySpace:
    """The space that a recipe describes: a list of detectors, one detector whose modules or cells vary inside, or lists
    of choices for the parts of detectors. RecipeError names the list and the entry that is wrong."""
    kind = next((key for key in ALONE if isinstance(section, Mapping) and key in section), None)
    if kind is None:
        return StructuralSpace.from_choices(section)
    if others := [str(name) for name in section if name != kind]:
        hint = "give whole detectors, or one with modules or cells, or choices for the parts of detectors"
        raise RecipeError("space", f"{kind} alone", f"{kind} beside {', '.join(others)}", hint)
    return ALONE[kind](section[kind])


def expect_listable(space: Space, what: str) -> None:
    """RecipeError where a space is too large for `what`, which needs all of it."""
    if (size := space.size()) > MAX_COMBINATIONS:
        hint = "make it smaller, or search with another strategy"
        raise RecipeError("space", f"at most {MAX_COMBINATIONS} detectors for {what}", str(size), hint)


def representatives(space: Space) -> Iterator[DetectorSpec]:
    """Members that show whatever may be wrong with one alone: all of them, but two where members differ in nothing but
    cells, or block codes and widths."""
    if isinstance(space, StructuresSpace):
        return chain.from_iterable(map(representatives, space.parts))
    return islice(space.all(), 2) if isinstance(space, HeadSpace | ModularSpace) else space.all()
