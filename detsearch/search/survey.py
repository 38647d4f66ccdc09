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
    """First the cost of `count` members of the space that were not tried, spread over it as first members are, or of
    all that there are; then, once these are known, what `strategy` proposes, whose model learns from them what others
    cost. A study that is gone on with, with a larger `count`, measures further ones first."""

    space: Space
    strategy: Strategy
    count: int

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        trials = (*history, *running)
        if sum(trial.origin == SURVEY for trial in trials) < self.count:
            seen = {trial.spec for trial in trials}
            # A search inside of a structure also sees its baseline, which is no member.
            left = self.space.size() > sum(map(self.space.contains, seen))
            if left and (spec := self._opening.beside(seen, frozenset(), rng)) is not None:
                return Proposal(spec=spec, origin=SURVEY)
        if any(trial.origin == SURVEY and trial.state is TrialState.WAITING for trial in running):
            return None
        return self.strategy.propose(history, running, rng)

    def continuation(
        self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator, left: int | None = None
    ) -> Proposal | None:
        return continuation(self.strategy, history, running, rng, left)

    @cached_property
    def _opening(self) -> Opening:
        return Opening(self.space, self.count)
