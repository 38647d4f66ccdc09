"""What a search needs to know of a space, and how a space draws a mutation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from detsearch.arch.spec import DetectorSpec

T = TypeVar("T")


class Space(Protocol):
    """A finite set of detectors with a neighbourhood.

    `neighbours` is symmetric and never yields its argument; `mutate` returns one of the neighbours, or its argument
    where it has none.
    """

    def size(self) -> int:
        """Exact number of detectors."""
        ...

    def all(self) -> Iterator[DetectorSpec]:
        """Every detector once, always in the same order."""
        ...

    def contains(self, spec: DetectorSpec) -> bool: ...

    def sample(self, rng: np.random.Generator) -> DetectorSpec:
        """A detector drawn uniformly; where nearly all members would then cost alike, evenly over what they cost."""
        ...

    def neighbours(self, spec: DetectorSpec) -> Iterator[DetectorSpec]: ...

    def mutate(self, spec: DetectorSpec, rng: np.random.Generator) -> DetectorSpec: ...


@runtime_checkable
class Graded(Protocol):
    """A space whose draws are even on a scale of cost, known in closed form, from 0 (the cheapest that is drawn) to 1
    (the dearest)."""

    def place(self, spec: DetectorSpec) -> float:
        """Where a member lies on the scale; below 0 or above 1 where it would not be drawn."""
        ...

    def sample_between(self, rng: np.random.Generator, low: float, high: float) -> DetectorSpec:
        """A member drawn evenly over a part of the scale, or near to it where it has hardly any."""
        ...


def draw_change(kinds: Iterable[Sequence[T]], rng: np.random.Generator) -> T | None:
    """One of the changes that are listed by kind: the kind is drawn, then the change, so that kinds with many changes
    do not drown the others. None where there is no change."""
    options = [changes for changes in kinds if changes]
    if not options:
        return None
    changes = options[int(rng.integers(len(options)))]
    return changes[int(rng.integers(len(changes)))]
