"""The section `space` of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detsearch.arch.spaces.listed import DETECTORS, ListedSpace
from detsearch.arch.spaces.structural import StructuralSpace
from detsearch.errors import RecipeError


def read_space(section: Mapping[str, Any]) -> StructuralSpace | ListedSpace:
    """The space that a recipe describes: a list of detectors, or lists of choices for their parts. RecipeError names
    the list and the entry that is wrong."""
    if not isinstance(section, Mapping) or DETECTORS not in section:
        return StructuralSpace.from_choices(section)
    if others := [str(name) for name in section if name != DETECTORS]:
        hint = "list either whole detectors or choices for their parts"
        raise RecipeError("space", f"{DETECTORS} alone", f"{DETECTORS} beside {', '.join(others)}", hint)
    return ListedSpace.from_entries(section[DETECTORS])
