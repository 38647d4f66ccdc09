"""Freeze and thaw: every candidate is looked at early, and a model decides which training is worth going on with.

After Swersky, Snoek and Adams, "Freeze-thaw Bayesian optimization" (2014), with the expected improvement of a
hypervolume in place of a single figure's. Values of different fidelity are never compared: all that is compared is what
the model predicts for the most epochs that any training has had, from the first that was finished on those of a full
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detsearch.arch.spec import DetectorSpec
from detsearch.search.coverage import kinds_of
from detsearch.search.surrogate import MODEL, Promise, Surrogate
from detsearch.search.trial import RANDOM, Proposal, Trial, TrialState, promotion
from detsearch.types import Fidelity

LEAST: Final = 3e-3
"""What is worth going on for, of the front's hypervolume. Where nothing promises as much the model may be wrong: that a
kind of module learns slowly it cannot know before a training with one was finished. On the recorded tables this is late
enough not to delay the first 95 %."""


@dataclass(frozen=True, kw_only=True)
class Thawing:
    """Candidates begin with the first of the `rungs`, the epochs at which trainings pause, ascending, the full training
    last. Next comes what promises the largest improvement (`Surrogate.promise`) for each epoch that a full training of
    it still costs: a member that was not tried, or a training that is paused. What early figures are worth the model
    sees in those that went on; so before it believes that little is left to find (`LEAST`), one with each kind of
    module goes on.
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
        promise = self.promise(paused, new, history, running, rng)
        if promise is None:
            if not new:
                return self._continued(paused[0])
            spec = new[int(rng.integers(len(new)))]
            return Proposal(spec=spec, origin=RANDOM, fidelity=Fidelity(self.rungs[0]))
        worth = promise.gains / np.array([*map(self._left, paused), *[self.rungs[-1]] * len(new)])
        if promise.gains.max() < LEAST * promise.volume:
            unproven = self._unproven(paused, history, running, worth)
            if unproven is not None:
                return self._continued(unproven)
        best = int(rng.choice(np.flatnonzero(worth == worth.max())))
        if best < len(paused):
            return self._continued(paused[best])
        return Proposal(spec=new[best - len(paused)], origin=MODEL, fidelity=Fidelity(self.rungs[0]))

    def continuation(
        self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator, left: int | None = None
    ) -> Proposal | None:
        """The next training to go on with when nothing new may begin, one that can be finished in the epochs that are
        `left`: what promises most for each epoch among those that promise `LEAST`, then one whose kind was never
        trained in full; None where there is no such one. Pure."""
        paused = [trial for trial in self._paused(history, running) if left is None or self._left(trial) <= left]
        if not paused:
            return None
        promise = self.promise(paused, [], history, running, rng)
        if promise is None:
            return self._continued(paused[0])
        worth = promise.gains / np.array([*map(self._left, paused)])
        enough = promise.gains > LEAST * promise.volume
        if enough.any():
            return self._continued(paused[int(np.where(enough, worth, -np.inf).argmax())])
        unproven = self._unproven(paused, history, running, worth)
        return None if unproven is None else self._continued(unproven)

    def promise(
        self,
        paused: Sequence[Trial],
        new: Sequence[DetectorSpec],
        history: Sequence[Trial],
        running: Sequence[Trial],
        rng: np.random.Generator,
    ) -> Promise | None:
        """What each of (paused + new,) promises, trained in full, over what was, and what runs."""
        done = self._finished(history)
        known = (*done, *running) if self.surrogate.aware else done
        tried = list(dict.fromkeys(trial.spec for trial in known))
        return self.surrogate.promise(tried, [*(trial.spec for trial in paused), *new], (*history, *running), rng)

    def _unproven(
        self, paused: Sequence[Trial], history: Sequence[Trial], running: Sequence[Trial], worth: NDArray[np.float64]
    ) -> Trial | None:
        """The one worth most of the paused trainings with a kind of module of which none was finished, nor runs."""
        shown = {kind for trial in (*self._finished(history), *running) for kind in kinds_of(trial.spec)}
        places = [place for place, trial in enumerate(paused) if not shown.issuperset(kinds_of(trial.spec))]
        return paused[max(places, key=worth.__getitem__)] if places else None

    def _finished(self, history: Sequence[Trial]) -> list[Trial]:
        """What was trained in full."""
        full = Fidelity(self.rungs[-1])
        return [trial for trial in history if trial.state is TrialState.COMPLETE and trial.fidelity == full]

    def _left(self, trial: Trial) -> int:
        """Epochs that a paused training still takes."""
        return self.rungs[-1] - trial.fidelity.epochs

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
