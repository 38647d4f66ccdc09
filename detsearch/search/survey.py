"""What candidates cost is measured before any of them is trained: a measurement takes seconds, a training hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detsearch.arch.spaces.base import Space
from detsearch.search.coverage import Opening
from detsearch.search.trial import SURVEY, Proposal, Strategy, Trial, TrialState, continuation


@dataclass(frozen=True, kw_only=True)
class Survey:
    """First the cost of `count` members of the space, spread over it as first members are, or of all where it has no
    more; then, once all of these are known, what `strategy` proposes, whose model learns from them what others cost."""

    space: Space
    strategy: Strategy
    count: int

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        trials = (*history, *running)
        asked = sum(trial.origin == SURVEY for trial in trials)
        seen = {trial.spec for trial in trials}
        if asked < self.count and (spec := self._opening.beside(seen, frozenset(), rng)) is not None:
            return Proposal(spec=spec, origin=SURVEY)
        if any(trial.origin == SURVEY and trial.state is TrialState.WAITING for trial in running):
            return None
        return self.strategy.propose(history, running, rng)

    def continuation(
        self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator
    ) -> Proposal | None:
        return continuation(self.strategy, history, running, rng)

    @cached_property
    def _opening(self) -> Opening:
        return Opening(self.space, self.count)
