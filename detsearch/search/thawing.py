"""Freeze and thaw: every candidate is looked at early, and a model decides which training is worth going on with.

After Swersky, Snoek and Adams, "Freeze-thaw Bayesian optimization" (2014), with the expected improvement of a
hypervolume in place of a single figure's. Values of different fidelity are never compared: all that is compared is what
the model predicts of full trainings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detsearch.arch.spec import DetectorSpec
from detsearch.search.pareto import hypervolume, matrix, measured, reference_point
from detsearch.search.surrogate import MODEL, Surrogate
from detsearch.search.trial import RANDOM, Proposal, Trial, TrialState, promotion
from detsearch.types import Fidelity

LEAST: Final = 3e-3
"""What a training that is gone on with when nothing new may begin has to promise, of the front's hypervolume."""


@dataclass(frozen=True, kw_only=True)
class Thawing:
    """Candidates begin with the first of the `rungs`, the epochs at which trainings pause, ascending, the full training
    last. Next comes what promises the largest improvement (`Surrogate.gains`) for each epoch that a full training of it
    still costs: a member that was not tried, or a training that is paused. What early figures are worth the model sees
    in those that went on.
    """

    surrogate: Surrogate
    rungs: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.rungs) > 1, "trainings pause somewhere"
        assert list(self.rungs) == sorted(set(self.rungs)), "rungs ascend"

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        first = self.surrogate.opening.next(history, running, rng)
        if first is not None:
            return Proposal(spec=first, origin=RANDOM, fidelity=Fidelity(self.rungs[0]))
        paused = self._paused(history, running)
        new = self.surrogate.candidates(history, running, rng)
        if not paused and not new:
            return None
        gains = self.gains(paused, new, history, running, rng)
        if gains is None:
            if not new:
                return self._continued(paused[0])
            spec = new[int(rng.integers(len(new)))]
            return Proposal(spec=spec, origin=RANDOM, fidelity=Fidelity(self.rungs[0]))
        left = [self.rungs[-1] - trial.fidelity.epochs for trial in paused] + [self.rungs[-1]] * len(new)
        worth = gains / np.array(left)
        best = int(rng.choice(np.flatnonzero(worth == worth.max())))
        if best < len(paused):
            return self._continued(paused[best])
        return Proposal(spec=new[best - len(paused)], origin=MODEL, fidelity=Fidelity(self.rungs[0]))

    def continuation(
        self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator
    ) -> Proposal | None:
        """The next training to go on with when nothing new may begin; None where none promises `LEAST`. Pure."""
        paused = self._paused(history, running)
        if not paused:
            return None
        gains = self.gains(paused, [], history, running, rng)
        full = matrix(measured(history, self.surrogate.objectives, Fidelity(self.rungs[-1])), self.surrogate.objectives)
        if gains is None:
            return self._continued(paused[0])
        worth = gains / np.array([self.rungs[-1] - trial.fidelity.epochs for trial in paused])
        best = int(worth.argmax())
        promised = not len(full) or gains[best] > LEAST * hypervolume(full, reference_point(full).tolist())
        return self._continued(paused[best]) if promised else None

    def gains(
        self,
        paused: Sequence[Trial],
        new: Sequence[DetectorSpec],
        history: Sequence[Trial],
        running: Sequence[Trial],
        rng: np.random.Generator,
    ) -> NDArray[np.float64] | None:
        """(paused + new,) the improvement that each promises, trained in full, over what was, and what runs."""
        full = Fidelity(self.rungs[-1])
        done = [trial for trial in history if trial.state is TrialState.COMPLETE and trial.fidelity == full]
        known = (*done, *running) if self.surrogate.aware else done
        tried = list(dict.fromkeys(trial.spec for trial in known))
        return self.surrogate.gains(tried, [*(trial.spec for trial in paused), *new], (*history, *running), rng)

    def _paused(self, history: Sequence[Trial], running: Sequence[Trial]) -> list[Trial]:
        """Trainings that ended below the last rung and that none goes on with."""
        continued = {trial.continues for trial in (*history, *running)}
        return [
            trial
            for trial in history
            if trial.state is TrialState.COMPLETE
            and trial.fidelity.epochs < self.rungs[-1]
            and trial.number not in continued
        ]

    def _continued(self, trial: Trial) -> Proposal:
        """To the next rung."""
        return promotion(trial, Fidelity(next(rung for rung in self.rungs if rung > trial.fidelity.epochs)))
