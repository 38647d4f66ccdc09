"""Part of a space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detsearch.arch.spaces.base import Space
from detsearch.arch.spec import DetectorSpec


@dataclass(frozen=True)
class Subset:
    """The members of a space that `holds` lets through, at least one; neighbours there are neighbours here."""

    space: Space
    holds: Callable[[DetectorSpec], bool]

    @cached_property
    def _members(self) -> tuple[DetectorSpec, ...]:
        return tuple(filter(self.holds, self.space.all()))

    def size(self) -> int:
        return len(self._members)

    def all(self) -> Iterator[DetectorSpec]:
        return iter(self._members)

    def contains(self, spec: DetectorSpec) -> bool:
        return self.space.contains(spec) and self.holds(spec)

    def sample(self, rng: np.random.Generator) -> DetectorSpec:
        return self._members[int(rng.integers(len(self._members)))]

    def neighbours(self, spec: DetectorSpec) -> Iterator[DetectorSpec]:
        return filter(self.holds, self.space.neighbours(spec))

    def mutate(self, spec: DetectorSpec, rng: np.random.Generator) -> DetectorSpec:
        around = list(self.neighbours(spec))
        return around[int(rng.integers(len(around)))] if around else spec
