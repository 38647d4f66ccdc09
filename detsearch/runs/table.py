"""``detsearch study table``: studies that tried a whole space, one for each seed, as a recorded table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from detsearch.arch.code import format_detector
from detsearch.arch.spaces.section import expect_listable, read_space
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import StudyError
from detsearch.runs.folders import RECIPE
from detsearch.runs.latencies import Latencies, read_latencies
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import SearchRecipe
from detsearch.search.ledger import StudyRecord, read_study
from detsearch.search.storage import first_difference
from detsearch.search.table import Row, Table, Training
from detsearch.search.tablefile import read_table, write_table
from detsearch.search.trial import Trial, TrialState
from detsearch.training import log as logs
from detsearch.training.loop import LOG
from detsearch.types import CostMetrics, Latency

FREE: Final = frozenset({"seed", "objectives"})
"""Of a study's identity, what may differ between those of one table; ..."""
OF_LATENCY: Final = frozenset({"device", "device_name", "latency"})
"""... and this as well, where latencies come from elsewhere."""
VERSIONS: Final = ("detsearch", "commit", "torch", "python", "threads")


@dataclass(frozen=True)
class Collected:
    """A table, and by seed the codes of the members of the space that it lacks."""

    table: Table
    lacking: Mapping[int, Sequence[str]]


def collect_table(folders: Sequence[Path], out: Path, latencies: Path | None = None) -> Collected:
    """Write the table of the studies in `folders`: their space, data and training must be the same, their seeds not.

    They may be unfinished, and one may lack what another has; none may hold trainings that began with inherited
    weights. Figures after part of a training are those in the trials' logs (``training.eval_epochs``). A latency is the
    first steady one, or else the first, that the studies have, unless `latencies` names a file of ``detsearch study
    latency``, which must then have all; the studies may then have run on different devices. StudyError otherwise, and
    where `out` is a file that holds no table.
    """
    _expect_table(out)
    studies = _by_seed(folders, FREE if latencies is None else FREE | OF_LATENCY)
    first = next(iter(studies.values()))
    measured = None if latencies is None else read_latencies(latencies)
    rows = []
    space = read_space(first.identity["space"])
    expect_listable(space, "a table")
    for spec in space.all():
        code = format_detector(spec)
        trials = {seed: _tried(study, spec) for seed, study in studies.items()}
        costs = [t.cost for found in trials.values() for t in found if t.cost is not None]
        if costs:
            cost = _cost(costs) if measured is None else _with(costs[0], measured.by_code, code, latencies)
            trainings = {s: t for s, study in studies.items() if (t := _training(study, trials[s])) is not None}
            rows.append(Row(code=code, spec=spec, cost=cost, trainings=trainings))
    provenance: dict[str, Any] = {
        **{k: v for k, v in first.identity.items() if k not in FREE | OF_LATENCY | {"space"}},
        "seeds": sorted(studies),
        "trained_on": {str(seed): studies[seed].identity["device_name"] for seed in sorted(studies)},
        "versions": _versions(first),
        "latency_from": "the studies, between trainings" if measured is None else _source(measured, rows),
    }
    table = Table(rows=tuple(rows), choices=first.identity["space"], provenance=provenance)
    if not table.epochs:
        raise StudyError(str(first.folder), "a detector that was trained", "none", "let the study run on")
    write_table(table, out)
    lacking = {}
    for seed in sorted(studies):
        trained = {row.spec for row in rows if seed in row.trainings}
        lacking[seed] = [format_detector(s) for s in space.all() if s not in trained]
    return Collected(table, lacking)


def _tried(study: StudyRecord, spec: DetectorSpec) -> list[Trial]:
    """A detector's trials, but those that only told its cost."""
    return [trial for trial in study.trials if trial.spec == spec and trial.state is not TrialState.COSTED]


def _expect_table(out: Path) -> None:
    """A table is replaced by a fuller one, but no other file."""
    if out.exists():
        try:
            read_table(out)
        except StudyError as error:
            received = f"a file that is none ({error})"
            raise StudyError("--out", "a new file, or a recorded table to replace", received, "name another") from None


def _by_seed(folders: Sequence[Path], free: Set[str]) -> dict[int, StudyRecord]:
    """The studies, whose identities must agree in all that is not `free`."""
    studies: dict[int, StudyRecord] = {}
    for study in map(read_study, folders):
        if (heir := next((trial for trial in study.trials if trial.inherits is not None), None)) is not None:
            found = f"one that began with the weights of trial {heir.inherits}"
            hint = "record a study without search.inherit"
            raise StudyError(f"{study.folder}: trial {heir.number}", "trainings from scratch", found, hint)
        seed = load_recipe(SearchRecipe, study.folder / RECIPE).seed
        first = next(iter(studies.values()), study)
        mine, other = ({k: v for k, v in s.identity.items() if k not in free} for s in (study, first))
        if (difference := first_difference(other, mine)) is not None:
            field, was, now = difference
            hint = "a table is of one space, data set and training"
            raise StudyError(f"{study.folder}: {field}", str(was), str(now), hint)
        if seed in studies:
            raise StudyError(str(study.folder), "a seed of its own for each study", str(seed), "search with --seed N")
        studies[seed] = study
    return studies


def _training(study: StudyRecord, trials: Sequence[Trial]) -> Training | None:
    """What a study found of a detector, at every fidelity; None where it has not been trained yet."""
    figures: dict[int, dict[str, float]] = {}
    failed = None
    ended = [t for t in trials if t.attempts and t.state in (TrialState.COMPLETE, TrialState.FAILED)]
    for trial in ended:
        figures |= _logged(study.folder / "trials" / f"{trial.number:04d}" / LOG)
    for trial in ended:
        if trial.metrics is not None and trial.state is TrialState.COMPLETE:
            figures[trial.fidelity.epochs] = _finite(trial.metrics.values)
        else:
            failed = trial.reason
    return Training(dict(sorted(figures.items())), failed) if ended else None


def _logged(path: Path) -> dict[int, dict[str, float]]:
    """What a training's log says of evaluations on the way; a log that is not ours says nothing."""
    figures: dict[int, dict[str, float]] = {}
    seconds = 0.0
    for record in logs.read(path):
        epoch, metrics = record.get("epoch"), record.get("metrics")
        passed = record.get("seconds")
        seconds += passed if isinstance(passed, int | float) else 0.0
        if isinstance(epoch, int) and isinstance(metrics, dict):
            figures[epoch] = {**_finite(metrics), "train_seconds": seconds}
    return figures


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


def _cost(costs: Sequence[CostMetrics]) -> CostMetrics:
    """What studies agree on, and the latency to be trusted most."""
    steady = [cost for cost in costs if cost.latency is not None and cost.latency.steady]
    return replace((steady or costs)[0], parts={})


def _with(cost: CostMetrics, measured: Mapping[str, Latency], code: str, path: Path | None) -> CostMetrics:
    if code not in measured:
        raise StudyError(str(path), f"the latency of {code}", "none", "repeat `detsearch study latency`")
    return replace(cost, parts={}, latency=measured[code])


def _source(measured: Latencies, rows: Sequence[Row]) -> dict[str, Any]:
    """How the latencies of a table were measured, and how often each was at least."""
    return {**measured.how, "rounds": min((measured.rounds[row.code] for row in rows), default=0)}


def _versions(study: StudyRecord) -> dict[str, Any]:
    """With what a study's first training was made."""
    found = next((trial.metrics.provenance for trial in study.trials if trial.metrics is not None), {})
    return {name: found[name] for name in VERSIONS if name in found}
