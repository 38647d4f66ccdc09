"""Search by a surrogate: a model of what was seen so far says which candidate is worth training next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detsearch.arch.spaces.base import Space
from detsearch.arch.spec import DetectorSpec
from detsearch.search.coverage import Opening
from detsearch.search.early import Early, early_value
from detsearch.search.features import distances, numbered
from detsearch.search.gaussian import Observations, predict
from detsearch.search.improvement import Predictions, expected_improvements
from detsearch.search.objective import Objective
from detsearch.search.pareto import front, hypervolume
from detsearch.search.random_search import sample_unseen
from detsearch.search.trial import RANDOM, Proposal, Trial, TrialState, taken

CANDIDATES: Final = 1000
"""So many of a larger space are looked at for each proposal, half drawn, half neighbours of the front; beside those of
which the cost alone was measured."""
MODEL: Final = "model"
"""Origin of a candidate that a model chose."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Promise:
    """`gains` (n,): by how much each of n candidates, trained in full, is expected to improve the hypervolume of what
    was tried, which is `volume`; both as predicted, below one reference point."""

    gains: Array
    volume: float


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """`initial` first members as in evolution, then what promises the largest hypervolume.

    A Gaussian process for each objective (`gaussian`) predicts all candidates from the history: what is known before
    training from every candidate that was costed, on a logarithmic scale, and what training finds from every fidelity,
    for the highest one that was reached; below that, what stands for it `early`. The candidate with the largest
    expected improvement of the hypervolume is proposed. What it has to improve is the front of all that was tried and
    of what runs, both as *predicted*: a lucky figure does not count in full, and what runs is not sought twice
    (`aware`). The reference point is the worst of all predictions.
    """

    space: Space
    objectives: tuple[Objective, ...]
    initial: int = 8
    aware: bool = True
    early: Early = field(default_factory=dict)

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        if (first := self.opening.next(history, running, rng)) is not None:
            return Proposal(spec=first, origin=RANDOM)
        candidates = self.candidates(history, running, rng)
        if not candidates:
            return None
        trained = [trial for trial in history if trial.state is TrialState.COMPLETE]
        tried = list(dict.fromkeys(trial.spec for trial in (*trained, *(running if self.aware else ()))))
        found = self.promise(tried, candidates, (*history, *running), rng)
        if found is None:
            return Proposal(spec=candidates[int(rng.integers(len(candidates)))], origin=RANDOM)
        best = np.flatnonzero(found.gains == found.gains.max())
        return Proposal(spec=candidates[int(rng.choice(best))], origin=MODEL)

    def promise(
        self,
        tried: Sequence[DetectorSpec],
        candidates: Sequence[DetectorSpec],
        trials: Sequence[Trial],
        rng: np.random.Generator,
    ) -> Promise | None:
        """What each of n candidates, trained in full, is expected to add to what is `tried`, as the model of all
        `trials` predicts them; None where nothing was seen."""
        predictions = _predictions([*tried, *candidates], trials, self.objectives, self.early)
        if predictions is None:
            return None
        likely = predictions.likely()
        reference = likely.max(axis=0).tolist()
        before = likely[: len(tried)]
        gains = expected_improvements(predictions.part(slice(len(tried), None)), before, reference, rng)
        return Promise(gains, hypervolume(before, reference))

    @cached_property
    def opening(self) -> Opening:
        """The first members."""
        return Opening(self.space, self.initial)

    @cached_property
    def _members(self) -> list[DetectorSpec]:
        return list(self.space.all())

    def candidates(
        self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator
    ) -> list[DetectorSpec]:
        """Members that were not tried, in an order that depends on the arguments only."""
        seen = taken((*history, *running))
        if self.space.size() <= CANDIDATES:
            return [spec for spec in self._members if spec not in seen]
        around = [spec for trial in front(history, self.objectives) for spec in self.space.neighbours(trial.spec)]
        near = [around[index] for index in rng.permutation(len(around))[: CANDIDATES // 2]]
        drawn = [self.space.sample(rng) for _ in range(CANDIDATES - len(near))]
        known = [trial.spec for trial in history if trial.state is TrialState.COSTED]
        found = [spec for spec in dict.fromkeys([*known, *near, *drawn]) if spec not in seen]
        if not found and (last := sample_unseen(self.space, seen, rng)) is not None:
            return [last]
        return found


def _predictions(
    specs: Sequence[DetectorSpec], trials: Sequence[Trial], objectives: Sequence[Objective], early: Early
) -> Predictions | None:
    """Of the full training of `specs`, where a cost that was measured is known; None where nothing was seen of an
    objective."""
    costs = {name for trial in trials if trial.cost is not None for name in trial.cost.values()}
    logarithmic = np.array([objective.name in costs for objective in objectives])
    means, deviations = np.zeros((2, len(specs), len(objectives)))
    distinct, numbers = numbered([*specs, *(trial.spec for trial in trials)])
    which, theirs = numbers[: len(specs)], numbers[len(specs) :]
    others = list(dict.fromkeys(theirs))
    place = {number: index for index, number in enumerate(others)}
    # All at once, because distances are relative to the range of all that they are asked for.
    between = distances(distinct, [distinct[number] for number in others])
    for column, objective in enumerate(objectives):
        costed = bool(logarithmic[column])
        found = _costs(trials, theirs, objective) if costed else _found(trials, theirs, objective, early)
        if not found:
            return None
        seen = np.array([number for number, _, _ in found])
        to = between[:, :, [place[number] for number, _, _ in found]]
        values = np.array([value for _, _, value in found])
        centre = values.mean() if costed else 0.0
        observed = Observations(
            which=seen,
            epochs=np.array([epochs for _, epochs, _ in found]),
            values=values - centre,
            distances=to[:, seen],
        )
        predicted, deviations[:, column] = predict(observed, to[:, which], which, observed.epochs.max())
        means[:, column] = predicted + centre
        if costed:
            known = dict(zip(seen.tolist(), values, strict=True))
            for index, number in enumerate(which):
                if number in known:
                    means[index, column], deviations[index, column] = known[number], 0.0
    signs = np.array([-1.0 if objective.maximise else 1.0 for objective in objectives])
    return Predictions(means=means, deviations=deviations, logarithmic=logarithmic, signs=signs)


Seen: TypeAlias = "tuple[int, float, float]"
"""The number of a detector, the epochs that it was trained, and a value."""


def _costs(trials: Sequence[Trial], numbers: Sequence[int], objective: Objective) -> list[Seen]:
    """Logarithms of what is known before training, once for each detector, whose numbers are given trial by trial."""
    found = {}
    for trial, number in zip(trials, numbers, strict=True):
        value = math.nan if trial.cost is None else trial.cost.values().get(objective.name, math.nan)
        if 0 < value < math.inf:
            found[number] = number, 1.0, math.log(value)
    return list(found.values())


def _found(trials: Sequence[Trial], numbers: Sequence[int], objective: Objective, early: Early) -> list[Seen]:
    """What training found, for minimisation: the objective after the most epochs, what stands for it before."""
    complete = [(n, t, t.values()) for n, t in zip(numbers, trials, strict=True) if t.state is TrialState.COMPLETE]
    measured = [found for found in complete if math.isfinite(found[2].get(objective.name, math.nan))]
    full = max((trial.fidelity for _, trial, _ in measured), default=None)
    return [
        (number, float(trial.fidelity.epochs), early_value(values, objective, early if trial.fidelity != full else {}))
        for number, trial, values in measured
    ]
