"""Several searches that share one budget and one pool of workers, and are brought forward together (SM-NAS, stage two:
the fronts of all structures are lifted at the same time)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detsearch.arch.spaces.base import Space
from detsearch.arch.spec import DetectorSpec
from detsearch.search.trial import SURVEY, Proposal, Strategy, Trial, TrialState, continuation


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of several searches. Its `baseline` need not be a member of the space: it is a trial of this search all the
    same, so that it may be a parent."""

    space: Space
    strategy: Strategy
    baseline: DetectorSpec | None = None

    def own(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those of the trials that belong to this search."""
        return [trial for trial in trials if trial.spec == self.baseline or self.space.contains(trial.spec)]


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Each new candidate comes from the search that has had the fewest so far, of which pruned ones and those of a
    survey do not count; a search sees its own trials only. The spaces of `parts` have no member, and no baseline, in
    common."""

    parts: tuple[Part, ...]

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        proposals = (strategy.propose(past, present, rng) for past, present, strategy in self._shares(history, running))
        return next((proposal for proposal in proposals if proposal is not None), None)

    def continuation(
        self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator, left: int | None = None
    ) -> Proposal | None:
        proposals = (
            continuation(strategy, past, present, rng, left)
            for past, present, strategy in self._shares(history, running)
        )
        return next((proposal for proposal in proposals if proposal is not None), None)

    def _shares(
        self, history: Sequence[Trial], running: Sequence[Trial]
    ) -> list[tuple[list[Trial], list[Trial], Strategy]]:
        """What has ended and what runs of each search, the smallest first."""
        shares = [(part.own(history), part.own(running), part.strategy) for part in self.parts]
        shares.sort(key=lambda share: sum(_counts(trial) for trial in (*share[0], *share[1])))
        return shares


def _counts(trial: Trial) -> bool:
    return trial.state is not TrialState.PRUNED and trial.origin != SURVEY
