"""A space that is a plain list of detectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from detsearch.arch.code import format_detector
from detsearch.arch.presets import resolve
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import RecipeError, SpecError

DETECTORS: Final = "detectors"
"""What a recipe calls the list."""


@dataclass(frozen=True)
class ListedSpace:
    """Exactly these detectors, each the neighbour of every other one."""

    detectors: tuple[DetectorSpec, ...]

    @classmethod
    def from_entries(cls, entries: Any) -> ListedSpace:
        """Read a recipe's list: whatever `resolve` takes for a detector, an input size with it. RecipeError names the
        entry."""
        if not isinstance(entries, (list, tuple)) or not entries:
            raise RecipeError(f"space.{DETECTORS}", "a list of one or more detectors", repr(entries))
        found = []
        for number, entry in enumerate(entries):
            where = f"space.{DETECTORS}[{number}]"
            if not isinstance(entry, str):
                raise RecipeError(where, "a preset or a detector's code", repr(entry))
            try:
                found.append(resolve(entry))
            except SpecError as error:
                raise RecipeError(where, "a preset or a detector's code", f"{entry!r} ({error})") from None
        most, times = Counter(found).most_common(1)[0]
        if times > 1:
            raise RecipeError(f"space.{DETECTORS}", "every detector once", f"{format_detector(most)!r} {times} times")
        return cls(tuple(found))

    def to_choices(self) -> dict[str, list[str]]:
        """The list as codes: what identifies a space."""
        return {DETECTORS: [format_detector(spec) for spec in self.detectors]}

    @cached_property
    def _members(self) -> frozenset[DetectorSpec]:
        return frozenset(self.detectors)

    def size(self) -> int:
        return len(self.detectors)

    def all(self) -> Iterator[DetectorSpec]:
        return iter(self.detectors)

    def contains(self, spec: DetectorSpec) -> bool:
        return spec in self._members

    def sample(self, rng: np.random.Generator) -> DetectorSpec:
        return self.detectors[int(rng.integers(len(self.detectors)))]

    def neighbours(self, spec: DetectorSpec) -> Iterator[DetectorSpec]:
        return (other for other in self.detectors if other != spec)

    def mutate(self, spec: DetectorSpec, rng: np.random.Generator) -> DetectorSpec:
        others = list(self.neighbours(spec))
        return others[int(rng.integers(len(others)))] if others else spec
