"""What a search needs to know of a space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from detsearch.arch.spec import DetectorSpec


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
