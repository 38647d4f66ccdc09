"""Detectors as numbers: how far apart two of them are, slot by slot, from nothing but their specs' fields.

Whatever fields a module has, a third party's included, are read alike: numbers by their size, everything else by
whether it is the same. Only block codes are read by what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from detsearch.arch.blockcode import BlockCode
from detsearch.arch.spec import SLOTS, DetectorSpec

T = TypeVar("T")

GROUPS: Final = (*SLOTS, "norm", "input")
"""What is compared on its own."""

Entry: TypeAlias = "tuple[str, float | str]"
"""Where a value stands, such as ``.code.base``, and the value."""


def numbered(items: Sequence[T]) -> tuple[list[T], list[int]]:
    """The distinct ones, and the place of each among them: most are the same objects, and hashing specs is slow."""
    by_identity: dict[int, int] = {}
    by_value: dict[T, int] = {}
    for item in items:
        if id(item) not in by_identity:
            by_identity[id(item)] = by_value.setdefault(item, len(by_value))
    return list(by_value), [by_identity[id(item)] for item in items]


def distances(specs: Sequence[DetectorSpec], others: Sequence[DetectorSpec]) -> NDArray[np.float64]:
    """(groups, len(specs), len(others)) squared distances between 0 and 1, one layer for each of `GROUPS`.

    Half of it is whether two parts differ at all; the other half is the mean over what can be told of them: whether
    they are of one kind, and each of their fields. Numbers are compared by their logarithms, relative to the range that
    they have among all the given detectors; one that only one of two parts has counts as half that range.
    """
    layers = [_layer([part(spec, group) for spec in specs], [part(spec, group) for spec in others]) for group in GROUPS]
    return np.stack(layers)


def part(spec: DetectorSpec, group: str) -> Any:
    """What stands at one of the `GROUPS`."""
    return spec.input if group == "input" else getattr(spec.network, group)


def _layer(parts: Sequence[Any], others: Sequence[Any]) -> NDArray[np.float64]:
    """Computed for the distinct parts only: most spaces have far fewer of them than detectors."""
    distinct, numbers = numbered([*parts, *others])
    which = np.array(numbers, dtype=int)
    to, columns = np.unique(which[len(parts) :], return_inverse=True)
    between = _between([dict(entries(part)) for part in distinct], to)
    return np.asarray(between[np.ix_(which[: len(parts)], columns)])


def _between(entries: Sequence[dict[str, float | str]], to: NDArray[np.int_]) -> NDArray[np.float64]:
    """(n, len(to)) squared distances of n parts to some of them, by their numbers."""
    columns = []
    for name in dict.fromkeys(name for found in entries for name in found):
        column = _column([found.get(name) for found in entries], to)
        if column.any():  # what all have alike tells nothing
            columns.append(column)
    told = np.mean(columns, axis=0) if columns else np.zeros((len(entries), len(to)))
    return np.asarray(0.5 * told + 0.5 * (np.arange(len(entries))[:, None] != to))


def _column(values: Sequence[float | str | None], to: NDArray[np.int_]) -> NDArray[np.float64]:
    """The same of one entry."""
    if any(isinstance(value, str) for value in values):
        number = {value: index for index, value in enumerate(dict.fromkeys(values))}
        labels = np.array([number[value] for value in values])
        return np.asarray(labels[:, None] != labels[to], dtype=np.float64)
    sizes = np.array([math.nan if value is None else math.copysign(math.log1p(abs(value)), value) for value in values])  # type: ignore[arg-type]
    extent = np.nanmax(sizes) - np.nanmin(sizes)
    sizes = (sizes - np.nanmin(sizes)) / extent if extent > 0 else np.where(np.isnan(sizes), sizes, 0.5)
    absent = np.isnan(sizes)
    sizes = np.nan_to_num(sizes)
    gaps = np.where(absent[:, None] | absent[to], 0.5, sizes[:, None] - sizes[to])
    gaps[absent[:, None] & absent[to]] = 0.0
    return np.asarray(gaps**2)


def entries(value: Any, name: str = "") -> Iterator[Entry]:
    """All that a part is made of, flat."""
    if isinstance(value, BlockCode):
        for trait, number in value.traits().items():
            yield f"{name}.{trait}", number
    elif is_dataclass(value):
        yield f"{name}:kind", type(value).__qualname__
        for field in fields(value):
            yield from entries(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, bool | int | float):
        yield name, float(value)
    elif isinstance(value, tuple | list):
        yield f"{name}:length", float(len(value))
        for index, item in enumerate(value):
            yield from entries(item, f"{name}[{index}]")
    elif value is not None:
        text = str(value)
        yield name, text
        yield f"{name}:length", float(len(text))
