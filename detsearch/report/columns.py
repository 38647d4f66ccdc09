"""How figures and trials are written, once for the terminal, Markdown and HTML: names, units, digits, columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from detsearch.report.view import UNSTEADY, began_trained, latency_of, lineage
from detsearch.search.lift import Lift
from detsearch.search.objective import MAXIMISED, OF_MASKS, Objective
from detsearch.search.trial import Trial

NONE: Final = "–"
"""What stands where a trial has no such figure."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure's name as readers know it, its unit, and what its stored value is multiplied by for that unit."""

    title: str
    unit: str = ""
    scale: float = 1.0

    @property
    def header(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


FIGURES: Final[Mapping[str, Figure]] = {
    "latency_ms": Figure("Latency", "ms"),
    "params": Figure("Params", "M", 1e-6),
    "macs": Figure("MACs", "G", 1e-9),
    "backbone_macs": Figure("Backbone MACs", "G", 1e-9),
    "memory_access": Figure("Memory access", "M elements", 1e-6),
    "train_seconds": Figure("Training", "min", 1 / 60),
}


def figure(name: str) -> Figure:
    """How the figure of an objective is called: ``ap_small`` is AP small, ``mask_ap`` Mask AP, ``macs`` MACs (G)."""
    if name in FIGURES:
        return FIGURES[name]
    if name in OF_MASKS:
        return Figure(f"Mask {figure(name.removeprefix('mask_')).title}")
    head, _, tail = name.partition("_")
    return Figure(f"{head.upper() if name in MAXIMISED else head} {tail.replace('_', ' ')}".strip())


def significant(value: float) -> str:
    """A number with about three significant digits and no exponent where a reader needs none."""
    if not math.isfinite(value):
        return NONE
    size = abs(value)
    return f"{value:.2e}" if size >= 1e6 or 0 < size < 1e-3 else f"{value:.{decimals(size)}f}"


def decimals(size: float) -> int:
    """Decimals that give a number of this size about three significant digits."""
    return 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 or size == 0 else 3


def figure_text(name: str, value: float | None) -> str:
    """A stored value in the unit of its header; accuracies have three decimals, all else three significant digits."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.3f}" if name in MAXIMISED else significant(value * figure(name).scale)


def phrase(name: str, value: float | None) -> str:
    """A figure in a sentence: ``Latency 12.0 ms``."""
    return f"{figure(name).title} {figure_text(name, value)} {figure(name).unit}".strip()


SortKey: TypeAlias = float | str
Kind: TypeAlias = Literal["number", "text", "code"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of trials: its header, what a cell says, and what the column is sorted by (NaN comes last)."""

    header: str
    kind: Kind
    text: Callable[[Trial], str]
    key: Callable[[Trial], SortKey]


def figure_column(
    name: str, header: str | None = None, values: Callable[[Trial], Mapping[str, float]] = Trial.values
) -> Column:
    """The column of one figure; `values` says where a trial's figures are looked up."""

    def text(trial: Trial) -> str:
        shown = figure_text(name, values(trial).get(name))
        latency = latency_of(trial) if name == "latency_ms" else None
        return shown if latency is None or latency.steady else shown + UNSTEADY

    return Column(header or figure(name).header, "number", text, lambda trial: values(trial).get(name, math.nan))


def _iqr(trial: Trial) -> float:
    latency = latency_of(trial)
    return math.nan if latency is None else latency.iqr_ms


def _iqr_text(trial: Trial) -> str:
    """The spread with the digits of the median beside it."""
    latency = latency_of(trial)
    if latency is None or not math.isfinite(latency.iqr_ms) or not math.isfinite(latency.median_ms):
        return NONE
    return f"{latency.iqr_ms:.{decimals(abs(latency.median_ms))}f}"


NUMBER: Final = Column("Trial", "number", lambda trial: str(trial.number), lambda trial: float(trial.number))
IQR: Final = Column("IQR (ms)", "number", _iqr_text, _iqr)
INPUT: Final = Column(
    "Input",
    "text",
    lambda trial: str(trial.spec.input),
    lambda trial: float(trial.spec.input.width * trial.spec.input.height),
)
EPOCHS: Final = Column(
    "Epochs", "number", lambda trial: str(trial.fidelity.epochs), lambda trial: float(trial.fidelity.epochs)
)
ORIGIN: Final = Column("Origin", "text", lineage, lineage)
STATE: Final = Column("State", "text", lambda trial: str(trial.state), lambda trial: str(trial.state))
REASON: Final = Column(
    "Reason", "text", lambda trial: trial.reason or "no reason recorded", lambda trial: trial.reason or ""
)
ATTEMPTS: Final = Column("Attempts", "number", lambda trial: str(trial.attempts), lambda trial: float(trial.attempts))
CODE: Final = Column("Detector", "code", lambda trial: trial.code, lambda trial: trial.code)

COSTS: Final = ("latency_ms", "params", "macs")


def figure_columns(trials: Sequence[Trial], names: Sequence[str]) -> list[Column]:
    """The figures of `names` that any of the trials has, the spread of the latency beside it."""
    columns = []
    for name in names:
        if any(name in trial.values() for trial in trials):
            columns.append(figure_column(name))
            if name == "latency_ms" and any(math.isfinite(_iqr(trial)) for trial in trials):
                columns.append(IQR)
    return columns


LIFTED: Final = ("Structure", "Variants", "Baseline", "Best of no more cost", "Cheapest of no less accuracy")
"""Headers of the table that `lift_cells` fills."""
ABOUT_LIFT: Final = (
    "The best of many variants is compared with a single training of the baseline, on the split that chose it: chance "
    "alone makes the change positive, even where no variant is better. Train both again with several seeds before you "
    "believe it (detsearch compare)."
)
"""What a reader of that table has to know."""


def lift_cells(
    structure: str,
    lift: Lift | str,
    objectives: Sequence[Objective],
    test: Mapping[int, Mapping[str, float]] | None = None,
) -> tuple[str, ...]:
    """How far a structure was lifted, or why that is not known, in the columns of `LIFTED`: with a trial's number what
    it has in all objectives, whether it began with inherited weights, in brackets the change from the baseline, in
    percent of it, and its accuracy on the test split (by trial number) where there is one."""
    if isinstance(lift, str):
        return structure, NONE, lift, NONE, NONE
    accuracy = next((objective.name for objective in objectives if objective.name in MAXIMISED), "ap")

    def told(trial: Trial, axis: int) -> str:
        values = ", ".join(phrase(objective.name, trial.values()[objective.name]) for objective in objectives)
        scored = (test or {}).get(trial.number, {}).get(accuracy)
        tested = "" if scored is None else f"; test {phrase(accuracy, scored)}"
        if trial is lift.baseline:
            return f"{trial.number}: {values}{tested}" if axis < 0 else "none"
        who = f"{trial.number}, inherited" if began_trained(trial) else f"{trial.number}"
        name = objectives[axis].name
        change = trial.values()[name] / lift.baseline.values()[name] - 1 if lift.baseline.values()[name] else math.nan
        shown = f" ({100 * change:+.0f} %)" if math.isfinite(change) else ""
        return f"{who}: {values}{shown}{tested}"

    return structure, str(lift.trials), told(lift.baseline, -1), told(lift.better, 0), told(lift.cheaper, 1)


def result_columns(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    test: Mapping[int, Mapping[str, float]] | None = None,
) -> list[Column]:
    """Columns of complete trials: accuracies, those on the test split (by trial number), costs, what the trial is.

    Objectives come first among the figures of their kind; columns that would be empty are left out.
    """
    test = test or {}
    names = list(
        dict.fromkeys([*(o.name for o in objectives), "ap", "ap50", "mask_ap", "mask_ap50", *COSTS, "train_seconds"])
    )
    tested = {name for trial in trials for name in test.get(trial.number, {})}
    return [
        NUMBER,
        *figure_columns(trials, [name for name in names if name in MAXIMISED]),
        *(
            figure_column(name, f"Test {figure(name).header}", lambda trial: test.get(trial.number, {}))
            for name in names
            if name in tested
        ),
        *figure_columns(trials, [name for name in names if name not in MAXIMISED]),
        INPUT,
        EPOCHS,
        ORIGIN,
        CODE,
    ]


def pruned_columns(trials: Sequence[Trial]) -> list[Column]:
    """Columns of trials that were left out before training."""
    return [NUMBER, REASON, *figure_columns(trials, COSTS), INPUT, ORIGIN, CODE]


def costed_columns(trials: Sequence[Trial]) -> list[Column]:
    """Columns of trials of which only the cost was wanted."""
    return [NUMBER, *figure_columns(trials, COSTS), INPUT, CODE]


def failed_columns(trials: Sequence[Trial]) -> list[Column]:
    """Columns of trials that ended without a result."""
    return [NUMBER, REASON, ATTEMPTS, *figure_columns(trials, COSTS), EPOCHS, ORIGIN, CODE]


def unfinished_columns(trials: Sequence[Trial]) -> list[Column]:
    """Columns of trials that wait, run, or were interrupted."""
    return [NUMBER, STATE, ATTEMPTS, *figure_columns(trials, COSTS), EPOCHS, ORIGIN, CODE]
