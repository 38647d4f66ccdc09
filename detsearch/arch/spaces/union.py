"""Several spaces that have no member in common, as one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from detsearch.arch.spaces.base import Space
from detsearch.arch.spec import DetectorSpec


@dataclass(frozen=True)
class Union:
    """The members of all `parts`, at least one; neighbours are those within a part. Draws give every part the same
    chance, whatever its size."""

    parts: tuple[Space, ...]

    def part_of(self, spec: DetectorSpec) -> int | None:
        """The number of the part that a detector is a member of; None where it is of none."""
        return next((number for number, part in enumerate(self.parts) if part.contains(spec)), None)

    def size(self) -> int:
        return sum(part.size() for part in self.parts)

    def all(self) -> Iterator[DetectorSpec]:
        return itertools.chain.from_iterable(part.all() for part in self.parts)

    def contains(self, spec: DetectorSpec) -> bool:
        return self.part_of(spec) is not None

    def sample(self, rng: np.random.Generator) -> DetectorSpec:
        return self.parts[int(rng.integers(len(self.parts)))].sample(rng)

    def neighbours(self, spec: DetectorSpec) -> Iterator[DetectorSpec]:
        number = self.part_of(spec)
        return iter(()) if number is None else self.parts[number].neighbours(spec)

    def mutate(self, spec: DetectorSpec, rng: np.random.Generator) -> DetectorSpec:
        number = self.part_of(spec)
        return spec if number is None else self.parts[number].mutate(spec, rng)
