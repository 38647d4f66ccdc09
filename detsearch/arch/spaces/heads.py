"""A space of one detector whose head's cells vary."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from detsearch.arch.cells import SETS, CellSpec
from detsearch.arch.code import format_detector
from detsearch.arch.head_cells import cells_in, with_cells, with_tower
from detsearch.arch.presets import resolve
from detsearch.arch.spaces.cells import CellSpace
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import RecipeError, SpecError

CELLS: Final = "cells"
"""What a recipe calls such a space."""
FIELDS: Final = ("detector", "operations", "nodes", "inputs")


@dataclass(frozen=True)
class HeadSpace:
    """`detector`, which has cells in its head, with any of the `cells` in place of each of them.

    A mutation is one of one cell. There are many more members than anyone can list: 2.9e15 for two groups of cells and
    all transformations.
    """

    detector: DetectorSpec
    cells: CellSpace

    @classmethod
    def from_section(cls, section: Any) -> HeadSpace:
        """Read what a recipe says: `detector`, whatever `resolve` takes, an input size with it, which gets default
        cells in place of its head's convolutions if it has none; `operations`, the name of a set or a list of tokens
        (``full`` unless given); and what else `CellSpace` takes. RecipeError names the field."""
        if not isinstance(section, Mapping) or "detector" not in section:
            raise RecipeError(f"space.{CELLS}", f"a section with a detector ({', '.join(FIELDS)})", repr(section))
        for name in section:
            if name not in FIELDS:
                near = difflib.get_close_matches(str(name), FIELDS, 1)
                hint = f"did you mean {near[0]}?" if near else None
                raise RecipeError(f"space.{CELLS}", f"fields among {', '.join(FIELDS)}", repr(name), hint)
        text = section["detector"]
        try:
            found = resolve(text if isinstance(text, str) else repr(text))
            detector = found.with_network(head=with_tower(found.network).head)
        except SpecError as error:
            received = f"{text!r} ({error})"
            raise RecipeError(f"space.{CELLS}.detector", "a preset or a detector's code", received) from None
        sizes = {name: _number(name, section[name]) for name in ("nodes", "inputs") if name in section}
        try:
            cells = CellSpace(_operations(section.get("operations", "full")), **sizes)
        except SpecError as error:
            raise RecipeError(f"space.{CELLS}.{error.where}", error.expected, error.received, error.hint) from None
        return cls(detector, cells)

    def to_choices(self) -> dict[str, dict[str, Any]]:
        """The section of a recipe, canonical: what identifies a space."""
        fields = (format_detector(self.detector), list(self.cells.operations), self.cells.nodes, self.cells.inputs)
        return {CELLS: dict(zip(FIELDS, fields, strict=True))}

    @cached_property
    def _places(self) -> tuple[str, ...]:
        return tuple(cells_in(self.detector.network.head))

    def size(self) -> int:
        return math.prod(self.cells.size() for _ in self._places)

    def all(self) -> Iterator[DetectorSpec]:
        return map(self._member, self._all(len(self._places)))

    def contains(self, spec: DetectorSpec) -> bool:
        own = self._cells(spec)
        return own is not None and all(map(self.cells.contains, own))

    def sample(self, rng: np.random.Generator) -> DetectorSpec:
        return self._member([self.cells.sample(rng) for _ in self._places])

    def neighbours(self, spec: DetectorSpec) -> Iterator[DetectorSpec]:
        """Every member of which one cell differs, by one step."""
        own = self._cells(spec) or ()
        for index in self._open(own):
            for near in self.cells.neighbours(own[index]):
                yield self._member((*own[:index], near, *own[index + 1 :]))

    def mutate(self, spec: DetectorSpec, rng: np.random.Generator) -> DetectorSpec:
        own = self._cells(spec) or ()
        if not (places := self._open(own)):
            return spec
        index = places[int(rng.integers(len(places)))]
        near = self.cells.mutate(own[index], rng)
        return self._member((*own[:index], near, *own[index + 1 :])) if self.cells.contains(near) else spec

    def _open(self, own: Sequence[CellSpec]) -> list[int]:
        """Which of a spec's cells may change: those beside which all others belong to the space."""
        inside = [self.cells.contains(cell) for cell in own]
        return [index for index in range(len(own)) if all(inside[:index] + inside[index + 1 :])]

    def _all(self, count: int) -> Iterator[tuple[CellSpec, ...]]:
        """Tuples of `count` cells; `itertools.product` would hold all cells in memory."""
        if count == 0:
            yield ()
        else:
            for cell in self.cells.all():
                for rest in self._all(count - 1):
                    yield (cell, *rest)

    def _member(self, cells: Sequence[CellSpec]) -> DetectorSpec:
        head = with_cells(self.detector.network.head, dict(zip(self._places, cells, strict=True)))
        return self.detector.with_network(head=head)

    def _cells(self, spec: DetectorSpec) -> tuple[CellSpec, ...] | None:
        """The cells of a detector that differs from ours in nothing else; None of any other."""
        own = cells_in(spec.network.head)
        if tuple(own) != self._places or self._member(tuple(own.values())) != spec:
            return None
        return tuple(own.values())


def _operations(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) and given in SETS:
        return SETS[given]
    if isinstance(given, (list, tuple)) and all(isinstance(token, str) for token in given):
        return tuple(given)
    raise SpecError("operations", f"{', '.join(SETS)}, or a list of operations", repr(given))


def _number(name: str, given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool):
        raise RecipeError(f"space.{CELLS}.{name}", "an integer", repr(given))
    return given
