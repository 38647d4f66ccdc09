"""What the specs of several kinds of module check, and how their fields are ordered."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final, Literal, get_args

from detsearch.errors import SpecError

LayerNorm = Literal["auto", "none", "bn", "gn"]
"""Norm behind the convolutions of a neck or a head. ``auto``: that of the network; beside ``bn`` none, as published,
unless the module says otherwise."""

BACKBONE_LEVELS: Final = (2, 3, 4, 5)
HIGHEST_LEVEL: Final = 7
REPLACED_BY_TOWER: Final = ("width", "depth", "norm")
"""Fields about the convolutions of a head, which say nothing where a `tower` stands in their place."""


def within(field: str, value: float, low: float, high: float) -> None:
    """Raise SpecError unless low <= value <= high."""
    if not low <= value <= high:
        raise SpecError(field, f"{low} to {high}", str(value))


def among(field: str, value: str, literal: Any) -> None:
    """Raise SpecError unless value is one of a Literal's."""
    if value not in get_args(literal):
        raise SpecError(field, " or ".join(get_args(literal)), repr(value))


def width_or_followed(field: str, value: int) -> None:
    """Raise SpecError unless value is a width or 0, which follows the maps."""
    if value:
        within(field, value, 8, 2048)


def replaced_by_tower(head: Any) -> None:
    """Raise SpecError unless the fields of a head that its `tower` takes the place of are at their defaults."""
    defaults = {field.name: field.default for field in fields(head)}
    for name in REPLACED_BY_TOWER if head.tower is not None else ():
        if (value := getattr(head, name)) != defaults[name]:
            raise SpecError(name, f"{defaults[name]} beside a tower, which has its own", str(value), "leave it out")


def joined(levels: tuple[int, ...]) -> str:
    return "-".join(map(str, levels)) or "none"


def some_or_none(a: int, b: int) -> bool:
    """Order of a number of layers the first of which may narrow what comes: none is comparable with none only."""
    return a == b or 0 < a <= b


def same_or_wider(a: int, b: int) -> bool:
    """Order of a width in which 0 follows the maps: comparable with itself only."""
    return a == b or 0 < a <= b
