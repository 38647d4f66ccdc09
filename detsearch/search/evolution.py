"""The evolution of SM-NAS (Yao et al., AAAI 2020, section "Search algorithm"): random first members, then mutations of
members of the current Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from detsearch.arch.spaces.base import Space
from detsearch.arch.spec import DetectorSpec
from detsearch.search.coverage import Opening
from detsearch.search.objective import Objective
from detsearch.search.pareto import crowding_distance, front, matrix
from detsearch.search.random_search import sample_unseen
from detsearch.search.trial import RANDOM, Proposal, Trial, TrialState, taken

MUTATIONS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """`initial` random members (pruned and failed ones are replaced), then mutations of the front.

    The first members are those of `Opening` (our choice): what no member has, mutations come by late.

    A parent is the less crowded of two drawn front members, so that thin parts of the front get more children (our
    choice; the paper only says that parents come from the front). Under successive halving the fronts of all fidelities
    have children, since the highest one has few members for long. A candidate is never proposed twice: where a
    parent's neighbourhood is used up the other members of the front follow, then a random candidate.
    """

    space: Space
    objectives: tuple[Objective, ...]
    initial: int = 16

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        if (first := self._opening.next(history, running, rng)) is not None:
            return Proposal(spec=first, origin=RANDOM)
        seen = taken((*history, *running))
        for parent in self._parents(history, rng):
            # Cheap draws first: the whole neighbourhood is listed only when they find nothing new.
            drawn = (self.space.mutate(parent.spec, rng) for _ in range(MUTATIONS))
            child = next((spec for spec in drawn if spec not in seen), None)
            if child is None:
                rest = [spec for spec in self.space.neighbours(parent.spec) if spec not in seen]
                child = rest[rng.integers(len(rest))] if rest else None
            if child is not None:
                return Proposal(spec=child, origin="mutation", parents=(parent.number,))
        spec = sample_unseen(self.space, seen, rng)
        return None if spec is None else Proposal(spec=spec, origin=RANDOM)

    @cached_property
    def _opening(self) -> Opening:
        return Opening(self.space, self.initial)

    def _parents(self, history: Sequence[Trial], rng: np.random.Generator) -> list[Trial]:
        """The members of the fronts in the order in which they are tried: a fidelity is drawn, and in its front a
        tournament's winner comes first, then the others at random; then the other fidelities'."""
        fidelities = sorted({trial.fidelity for trial in history if trial.state is TrialState.COMPLETE})
        if len(fidelities) > 1:
            fidelities = [fidelities[index] for index in rng.permutation(len(fidelities))]
        found: dict[DetectorSpec, Trial] = {}
        for fidelity in fidelities:
            members = front(history, self.objectives, fidelity)
            order = list(rng.permutation(len(members)))
            distance = crowding_distance(matrix(members, self.objectives))
            if len(order) > 1 and distance[order[1]] > distance[order[0]]:
                order[0], order[1] = order[1], order[0]
            for index in order:
                found.setdefault(members[index].spec, members[index])
        return list(found.values())
