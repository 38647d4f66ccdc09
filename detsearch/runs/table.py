"""``detsearch study table``: studies that tried a whole space, and tables of earlier ones, as a recorded table."""

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
OF_SEEDS: Final = frozenset({"seeds", "trained_on", "versions"})
"""Of a table's provenance, what differs between seeds; ..."""
LATENCY_FROM: Final = "latency_from"
"""... and how its latencies were measured. The rest, with its space, is the identity of its studies."""
VERSIONS: Final = ("detsearch", "commit", "torch", "python", "threads")


@dataclass(frozen=True)
class Collected:
    """A table, and by seed the codes of the members of the space that it lacks."""

    table: Table
    lacking: Mapping[int, Sequence[str]]


@dataclass(frozen=True)
class _Source:
    """A study or a recorded table: what must be the same in all sources of a table, and what each adds to it."""

    path: Path
    identity: Mapping[str, Any]
    trained_on: Mapping[int, str]
    """By seed, as are `versions` and a row's trainings."""
    versions: Mapping[int, Mapping[str, Any]]
    rows: Mapping[DetectorSpec, Row]
    latency_from: Any


def collect_table(paths: Sequence[Path], out: Path, latencies: Path | None = None) -> Collected:
    """Write the table of the studies (folders) and recorded tables (files) at `paths`: their space, data and training
    must be the same, their seeds not.

    They may be unfinished, and one may lack what another has; no study may hold trainings that began with inherited
    weights. Figures after part of a training are those in the trials' logs (``training.eval_epochs``). Latencies are
    those of `latencies`, a file of ``detsearch study latency``, or else of the first table, which must then have all;
    the studies may have run on different devices. With neither, a latency is the first steady one, or else the first,
    that the studies have. StudyError otherwise, and where `out` is a file that holds no table.
    """
    _expect_table(out)
    tables = [_of_table(path) for path in paths if path.is_file()]
    elsewhere = latencies is not None or bool(tables)
    studies = [_of_study(path, FREE | OF_LATENCY if elsewhere else FREE) for path in paths if not path.is_file()]
    sources = [*tables, *studies]
    _expect_together(sources)
    first = sources[0]
    space = read_space(first.identity["space"])
    expect_listable(space, "a table")
    measured = None if latencies is None else read_latencies(latencies)
    known: Mapping[str, Latency | None] = (
        {row.code: row.cost.latency for row in first.rows.values()} if measured is None else measured.by_code
    )
    rows = []
    for spec in space.all():
        found = [source.rows[spec] for source in sources if spec in source.rows]
        if not found:
            continue
        _expect_same_counts(found, [source.path for source in sources if spec in source.rows])
        cost = _cost([row.cost for row in found])
        if elsewhere:
            cost = _with(cost, known, found[0].code, latencies or first.path)
        trainings = {seed: training for row in found for seed, training in row.trainings.items()}
        rows.append(replace(found[0], cost=cost, trainings=trainings))

    trained_on = {seed: device for source in sources for seed, device in source.trained_on.items()}
    versions = {seed: found for source in sources for seed, found in source.versions.items()}
    seeds = sorted(trained_on)
    provenance: dict[str, Any] = {
        **{k: v for k, v in first.identity.items() if k not in OF_LATENCY | {"space"}},
        "seeds": seeds,
        "trained_on": {str(seed): trained_on[seed] for seed in seeds},
        "versions": {str(seed): versions[seed] for seed in seeds},
        LATENCY_FROM: first.latency_from if measured is None else _source(measured, rows),
    }
    table = Table(rows=tuple(rows), choices=first.identity["space"], provenance=provenance)
    if not table.epochs:
        raise StudyError(str(first.path), "a detector that was trained", "none", "let the study run on")
    write_table(table, out)
    lacking = {}
    for seed in seeds:
        trained = {row.spec for row in rows if seed in row.trainings}
        lacking[seed] = [format_detector(s) for s in space.all() if s not in trained]
    return Collected(table, lacking)


def _expect_table(out: Path) -> None:
    """A table is replaced by a fuller one, but no other file."""
    if out.exists():
        try:
            read_table(out)
        except StudyError as error:
            received = f"a file that is none ({error})"
            raise StudyError("--out", "a new file, or a recorded table to replace", received, "name another") from None


def _of_study(folder: Path, free: Set[str]) -> _Source:
    """What a study tried; of its identity all that is not `free`."""
    study = read_study(folder)
    if (heir := next((trial for trial in study.trials if trial.inherits is not None), None)) is not None:
        found = f"one that began with the weights of trial {heir.inherits}"
        hint = "record a study without search.inherit"
        raise StudyError(f"{folder}: trial {heir.number}", "trainings from scratch", found, hint)
    seed = load_recipe(SearchRecipe, folder / RECIPE).seed
    tried: dict[DetectorSpec, list[Trial]] = {}
    for trial in study.trials:
        if trial.state is not TrialState.COSTED and trial.cost is not None:
            tried.setdefault(trial.spec, []).append(trial)
    rows = {}
    for spec, trials in tried.items():
        training = _training(study, trials)
        rows[spec] = Row(
            code=format_detector(spec),
            spec=spec,
            cost=_cost([trial.cost for trial in trials if trial.cost is not None]),
            trainings={} if training is None else {seed: training},
        )
    return _Source(
        path=folder,
        identity={name: value for name, value in study.identity.items() if name not in free},
        trained_on={seed: study.identity["device_name"]},
        versions={seed: _versions(study)},
        rows=rows,
        latency_from="the studies, between trainings",
    )


def _of_table(path: Path) -> _Source:
    """What was recorded. Tables made otherwise than here may not say where each seed was trained."""
    table = read_table(path)
    own = OF_SEEDS | {LATENCY_FROM}
    on, versions = (_mapping(table.provenance.get(name)) for name in ("trained_on", "versions"))
    return _Source(
        path=path,
        identity={**{k: v for k, v in table.provenance.items() if k not in own}, "space": table.choices},
        trained_on={seed: str(on.get(str(seed), "unknown")) for seed in table.seeds},
        versions={seed: _mapping(versions.get(str(seed))) for seed in table.seeds},
        rows={row.spec: replace(row, code=format_detector(row.spec)) for row in table.rows},
        latency_from=table.provenance.get(LATENCY_FROM, "unknown"),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _expect_together(sources: Sequence[_Source]) -> None:
    """One identity, and seeds that differ."""
    seen: set[int] = set()
    for source in sources:
        if (difference := first_difference(dict(sources[0].identity), dict(source.identity))) is not None:
            field, was, now = difference
            hint = "a table is of one space, data set and training"
            raise StudyError(f"{source.path}: {field}", str(was), str(now), hint)
        if again := sorted(seen & source.trained_on.keys()):
            received = ", ".join(map(str, again))
            raise StudyError(str(source.path), "seeds that nothing before it has", received, "search with --seed N")
        seen |= source.trained_on.keys()


def _expect_same_counts(rows: Sequence[Row], paths: Sequence[Path]) -> None:
    """What is counted, not measured, is the same for one code, unless the code means another network by now."""
    for name in ("params", "macs"):
        expected = getattr(rows[0].cost, name)
        for row, path in zip(rows, paths, strict=True):
            if (found := getattr(row.cost, name)) != expected:
                hint = "the code means another network since; record the seeds with one version"
                raise StudyError(f"{path}: {name} of {row.code}", f"{expected} as in {paths[0]}", str(found), hint)


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


def _with(cost: CostMetrics, known: Mapping[str, Latency | None], code: str, path: Path) -> CostMetrics:
    if code not in known:
        hint = "measure all with `detsearch study latency`, and name its file with --latency"
        raise StudyError(str(path), f"the latency of {code}", "none", hint)
    return replace(cost, latency=known[code])


def _source(measured: Latencies, rows: Sequence[Row]) -> dict[str, Any]:
    """How the latencies of a table were measured, and how often each was at least."""
    return {**measured.how, "rounds": min((measured.rounds[row.code] for row in rows), default=0)}


def _versions(study: StudyRecord) -> dict[str, Any]:
    """With what a study's first training was made."""
    found = next((trial.metrics.provenance for trial in study.trials if trial.metrics is not None), {})
    return {name: found[name] for name in VERSIONS if name in found}
