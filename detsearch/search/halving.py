"""Successive halving over several objectives: candidates are compared early, and only the better ones train on.

Asynchronous, as ASHA (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020), with
non-domination in place of a single figure's order (as in Salinas et al., "A Multi-objective Perspective on Jointly
Tuning Hardware and Hyperparameters", 2021). Values of different fidelity are never compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detsearch.search.objective import Objective
from detsearch.search.pareto import matrix, measured, ranking
from detsearch.search.trial import Proposal, Trial, promotion
from detsearch.types import Fidelity


@dataclass(frozen=True, kw_only=True)
class Halving:
    """`rungs` are the epochs after which candidates are compared, ascending, the full training last. Of those that
    reached a rung the best share of 1 in `eta` goes on to the next."""

    objectives: tuple[Objective, ...]
    rungs: tuple[int, ...]
    eta: int = 3

    def __post_init__(self) -> None:
        assert self.rungs, "at least the full training"
        assert list(self.rungs) == sorted(set(self.rungs)), "rungs ascend"
        assert self.eta >= 2, "a share is left behind"

    @property
    def first(self) -> Fidelity:
        """What every candidate begins with."""
        return Fidelity(self.rungs[0])

    def promotion(self, trials: Sequence[Trial]) -> Proposal | None:
        """The next training to be continued, the highest rung first; None where no one has earned it. Pure."""
        continued = {trial.continues for trial in trials}
        for here, above in reversed(list(zip(self.rungs, self.rungs[1:], strict=False))):
            reached = measured(trials, self.objectives, Fidelity(here))
            for index in ranking(matrix(reached, self.objectives), len(reached) // self.eta):
                trial = reached[index]
                if trial.number not in continued:
                    return promotion(trial, Fidelity(above))
        return None
