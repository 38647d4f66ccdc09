"""Recorded trainings of a whole space, in place of training: every detector, several seeds, after several epochs.

A search on a table sees real figures with their real noise and takes no time; see `replay`. `tablefile` keeps tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.subset import Subset
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import StudyError, TrainingError
from detsearch.search.objective import Objective, vector
from detsearch.search.trial import TrialContext
from detsearch.types import JSON, CostMetrics, Fidelity, Metrics


@dataclass(frozen=True, slots=True)
class Training:
    """One training of one detector: its figures (``ap``, ..., ``train_seconds`` since the begin) by the epochs after
    which they were taken; `failed` says why it ended early, where it did."""

    figures: Mapping[int, Mapping[str, float]]
    failed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A detector, what it costs, and its trainings by their seeds; there may be none."""

    code: str
    spec: DetectorSpec
    cost: CostMetrics
    trainings: Mapping[int, Training]


@dataclass(frozen=True, kw_only=True)
class Table:
    """`rows` of distinct detectors, at least one of them trained in full. `choices` is the space's section of a recipe,
    `provenance` says where the figures come from."""

    rows: tuple[Row, ...]
    choices: Mapping[str, JSON] = field(default_factory=dict)
    provenance: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self._by_spec) == len(self.rows), "every detector once"

    @cached_property
    def _by_spec(self) -> dict[DetectorSpec, Row]:
        return {row.spec: row for row in self.rows}

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """All seeds that something was trained with."""
        return tuple(sorted({seed for row in self.rows for seed in row.trainings}))

    @cached_property
    def epochs(self) -> tuple[int, ...]:
        """After how many epochs every training that did not fail was scored, ascending; the last is the full one."""
        trained = [set(t.figures) for row in self.rows for t in row.trainings.values() if t.failed is None]
        return tuple(sorted(set.intersection(*trained))) if trained else ()

    @property
    def full(self) -> Fidelity:
        """The whole training."""
        return Fidelity(self.epochs[-1])

    @property
    def missing(self) -> list[str]:
        """Codes of the detectors that some seed was not trained with."""
        return [row.code for row in self.rows if len(row.trainings) < len(self.seeds)]

    def row(self, spec: DetectorSpec) -> Row:
        """StudyError for a detector that was not recorded."""
        if spec not in self._by_spec:
            raise StudyError("table", f"one of the {len(self.rows)} recorded detectors", repr(spec))
        return self._by_spec[spec]

    def code(self, spec: DetectorSpec) -> str:
        return self.row(spec).code

    def within(self, space: Space) -> Space:
        """The space, without the detectors that were never trained."""
        kept = {row.spec for row in self.rows if row.trainings}
        return space if all(spec in kept for spec in space.all()) else Subset(space, kept.__contains__)

    def cost(self, spec: DetectorSpec) -> CostMetrics:
        """What was counted and measured, as a study's `cost`."""
        return self.row(spec).cost

    def evaluate(self, spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:  # noqa: ARG002
        """What was recorded, as a study's `evaluate`: `seed` chooses among the detector's trainings, the same one at
        every fidelity. TrainingError where that one failed."""
        trainings = self.row(spec).trainings
        if not trainings:
            raise TrainingError("it was never trained")
        chosen = sorted(trainings)[seed % len(trainings)]
        training = trainings[chosen]
        if fidelity.epochs not in training.figures:
            raise TrainingError(training.failed or f"not scored after {fidelity.epochs} epochs")
        return Metrics(values=training.figures[fidelity.epochs], fidelity=fidelity, provenance={"seed": chosen})

    def values(self, objectives: Sequence[Objective], fidelity: Fidelity | None = None) -> NDArray[np.float64]:
        """(rows, objectives) for minimisation: means over the seeds that were trained to `fidelity` (the full one
        unless given), NaN where there is none."""
        epochs = (fidelity or self.full).epochs
        found = np.full((len(self.rows), len(objectives)), np.nan)
        for index, row in enumerate(self.rows):
            points = [
                vector(dict(training.figures[epochs]) | row.cost.values(), objectives)
                for training in row.trainings.values()
                if epochs in training.figures
            ]
            if points:
                found[index] = np.mean(points, axis=0)
        return found
