"""Several searches that share one budget and one pool of workers, and are brought forward together (SM-NAS, stage two:
the fronts of all structures are lifted at the same time)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detsearch.arch.spaces.base import Space
from detsearch.search.trial import Proposal, Strategy, Trial, TrialState


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Each new candidate comes from the search that has had the fewest so far, pruned ones not counted; a search sees
    the trials of its own space only. `searches` are spaces without common members, and a strategy in each."""

    searches: tuple[tuple[Space, Strategy], ...]

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        shares = [
            ([t for t in history if space.contains(t.spec)], [t for t in running if space.contains(t.spec)], strategy)
            for space, strategy in self.searches
        ]
        shares.sort(key=lambda share: sum(t.state is not TrialState.PRUNED for t in (*share[0], *share[1])))
        proposals = (strategy.propose(past, present, rng) for past, present, strategy in shares)
        return next((proposal for proposal in proposals if proposal is not None), None)
