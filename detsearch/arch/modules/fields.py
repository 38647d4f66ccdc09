"""What the specs of several kinds of module check, and how their fields are ordered."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

from detsearch.errors import SpecError

LayerNorm = Literal["auto", "none", "bn", "gn"]
"""Norm behind the convolutions of a neck or a head. ``auto``: that of the network; beside ``bn`` none, as published,
unless the module says otherwise."""

BACKBONE_LEVELS: Final = (2, 3, 4, 5)
HIGHEST_LEVEL: Final = 7


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


def joined(levels: tuple[int, ...]) -> str:
    return "-".join(map(str, levels)) or "none"


def same_or_wider(a: int, b: int) -> bool:
    """Order of a width in which 0 follows the maps: comparable with itself only."""
    return a == b or 0 < a <= b
