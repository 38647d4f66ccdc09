"""Begin a search with detectors that are known to be good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detsearch.arch.spec import DetectorSpec
from detsearch.search.trial import GIVEN, Proposal, Strategy, Trial, continuation, taken


@dataclass(frozen=True, kw_only=True)
class GivenFirst:
    """The detectors of a list in its order, then what `strategy` proposes."""

    detectors: tuple[DetectorSpec, ...]
    strategy: Strategy

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        seen = taken((*history, *running))
        spec = next((spec for spec in self.detectors if spec not in seen), None)
        if spec is not None:
            return Proposal(spec=spec, origin=GIVEN)
        return self.strategy.propose(history, running, rng)

    def continuation(
        self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator, left: int | None = None
    ) -> Proposal | None:
        return continuation(self.strategy, history, running, rng, left)
