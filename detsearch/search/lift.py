"""How far a search inside of structures got beyond the structures themselves (SM-NAS, stage two)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detsearch.arch.spec import DetectorSpec
from detsearch.search.objective import Objective, vector
from detsearch.search.pareto import measured
from detsearch.search.trial import Trial


@dataclass(frozen=True)
class Lift:
    """A structure's `baseline`, the structure as it was, trained like its variants, of which `trials` were trained:
    `better` is best in the first objective of those that are no worse in the others, `cheaper` is best in the second of
    those that are no worse in the others. The baseline itself where nothing is."""

    baseline: Trial
    trials: int
    better: Trial
    cheaper: Trial


def lifts(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    baselines: Sequence[DetectorSpec],
    part_of: Callable[[DetectorSpec], int | None],
) -> list[Lift | str]:
    """For each of the `baselines` how far the members of its part were lifted; why not, where it was not trained in
    full. Only trials of the highest fidelity count. `objectives` are at least two."""
    compared = measured(trials, objectives)
    found: list[Lift | str] = []
    for number, spec in enumerate(baselines):
        baseline = next((trial for trial in compared if trial.spec == spec), None)
        if baseline is None:
            found.append(_why_not(trials, spec))
            continue
        members = [trial for trial in compared if trial is not baseline and part_of(trial.spec) == number]
        better, cheaper = (_best(axis, [baseline, *members], objectives) for axis in (0, 1))
        found.append(Lift(baseline, len(members), better, cheaper))
    return found


def _why_not(trials: Sequence[Trial], spec: DetectorSpec) -> str:
    """The last word on a detector that was not trained in full."""
    last = next((trial for trial in reversed(trials) if trial.spec == spec), None)
    return f"{last.state}: {last.reason}" if last is not None and last.reason else "not trained"


def _best(axis: int, trials: Sequence[Trial], objectives: Sequence[Objective]) -> Trial:
    """The best in one objective of those that are no worse than the first trial in the others."""
    points = [vector(trial.values(), objectives) for trial in trials]
    kept = [
        (point[axis], number)
        for number, point in enumerate(points)
        if all(value <= limit for i, (value, limit) in enumerate(zip(point, points[0], strict=True)) if i != axis)
    ]
    return trials[min(kept)[1]]
