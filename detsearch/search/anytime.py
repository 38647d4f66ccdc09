"""How good a search's answer was at every moment: hypervolume against the epochs that it had cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detsearch.arch.spec import DetectorSpec
from detsearch.search.objective import Objective
from detsearch.search.pareto import front, hypervolume
from detsearch.search.trial import Trial, TrialState
from detsearch.types import Fidelity


@dataclass(frozen=True, slots=True)
class Curve:
    """`share` of the wanted hypervolume from each of the ascending `epochs` on; nothing before the first."""

    epochs: NDArray[np.int64]
    share: NDArray[np.float64]

    def at(self, epochs: Sequence[int]) -> NDArray[np.float64]:
        """The share that had been reached after so many epochs."""
        places = np.searchsorted(self.epochs, np.asarray(epochs), side="right")
        return np.concatenate([[0.0], self.share])[places]

    def until(self, share: float) -> float:
        """Epochs after which the answer was at least so good for the first time; infinite if it never was."""
        reached = np.flatnonzero(self.share >= share)
        return float(self.epochs[reached[0]]) if len(reached) else np.inf


def anytime(
    steps: Sequence[tuple[int, Trial]],
    truth: Callable[[DetectorSpec], NDArray[np.float64]],
    objectives: Sequence[Objective],
    *,
    fidelity: Fidelity,
    reference: Sequence[float],
    whole: float,
) -> Curve:
    """The curve of a study whose trials ended in `steps`, each with the epochs spent by then (`Replayed.steps`).

    Its answer at a moment is what it would report: the front, by the values that it saw, of what it had trained to
    `fidelity`. What that answer is worth is the hypervolume of the *true* values of those detectors, points for
    minimisation below `reference`, as a share of `whole`. So luck with a seed earns nothing, and the share may fall.
    """
    known: list[Trial] = []
    epochs, shares = [], []
    for spent, trial in steps:
        if trial.state is TrialState.COMPLETE and trial.fidelity == fidelity:
            known.append(trial)
            best = front(known, objectives, fidelity)
            epochs.append(spent)
            shares.append(hypervolume(np.array([truth(t.spec) for t in best]), reference) / whole if best else 0.0)
    return Curve(np.array(epochs, dtype=np.int64), np.array(shares))
