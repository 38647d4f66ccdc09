"""Recorded tables as files: JSON with a detector a line, packed by gzip where the name ends in ``.gz``.

    {"format": "detsearch table", "version": 1, "space": ..., "provenance": ..., "protocol": ..., "rows": [
    {"code": ..., "params": ..., "macs": ..., "memory_access": ..., "latency": {"median_ms": ..., ...},
     "trainings": {"0": {"epochs": [2, 4], "figures": {"ap": [0.1, 0.2], ...}, "failed": null}, ...}},
    ...]}

`protocol` has what all latencies share of `types.LatencyProtocol`; the rest stands in each row.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from detsearch.arch.code import parse_detector
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import SpecError, StudyError
from detsearch.files import replacing
from detsearch.search.table import Row, Table, Training
from detsearch.types import CostMetrics, Latency, LatencyProtocol
from detsearch.yamlfile import Section, explain

FORMAT: Final = "detsearch table"
MAX_BYTES: Final = 64 << 20
"""Of JSON, unpacked."""
MAX_DETECTORS: Final = 100_000
DIGITS: Final = 6
"""Decimals that the figures of rows are kept with."""

HINT: Final = "write tables with `detsearch study table`"

Count = Field(ge=0, le=10**18)
Milliseconds: TypeAlias = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Figure: TypeAlias = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
Seed: TypeAlias = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,17})$")]
"""A number in one spelling: two keys of an object are two seeds."""
_PROTOCOL: Final = TypeAdapter(LatencyProtocol)


class _Latency(Section):
    median_ms: Milliseconds = Field(gt=0)
    iqr_ms: Milliseconds
    steady: bool
    protocol: dict[str, int | str] = Field(default_factory=dict)


class _Training(Section):
    epochs: list[Annotated[int, Field(ge=1, le=10**6)]] = Field(max_length=1000)
    figures: dict[Name, list[Figure | None]] = Field(max_length=100)
    failed: str | None = Field(None, max_length=1000)

    @model_validator(mode="after")
    def _a_figure_an_epoch(self) -> _Training:
        if self.epochs != sorted(set(self.epochs)):
            raise ValueError("ascending epochs")
        for name, values in self.figures.items():
            if len(values) != len(self.epochs):
                raise ValueError(f"{len(self.epochs)} values of {name}, one for each of the epochs")
        return self

    def by_epochs(self) -> dict[int, dict[str, float]]:
        found: dict[int, dict[str, float]] = {epochs: {} for epochs in self.epochs}
        for name, values in self.figures.items():
            for epochs, value in zip(self.epochs, values, strict=True):
                if value is not None:
                    found[epochs][name] = value
        return found


class _Row(Section):
    code: str = Field(max_length=2000)
    params: int = Count
    macs: int = Count
    memory_access: int = Count
    latency: _Latency | None
    trainings: dict[Seed, _Training] = Field(max_length=1000)


class _File(Section):
    format: Literal["detsearch table"]
    version: Literal[1]
    space: dict[str, list[Any] | dict[str, Any]]
    provenance: dict[str, Any]
    protocol: dict[str, int | str]
    rows: list[_Row] = Field(min_length=1, max_length=MAX_DETECTORS)


def write_table(table: Table, path: Path) -> None:
    """Replace a file by the table, byte for byte the same for the same table. ResourceError where the disk refuses."""
    shared = _shared_protocol(table)
    head = {
        "format": FORMAT,
        "version": 1,
        "space": dict(table.choices),
        "provenance": dict(table.provenance),
        "protocol": shared,
    }
    rows = ",\n".join(_text(_row(row, shared)) for row in table.rows)
    content = (json.dumps(head, ensure_ascii=False, allow_nan=False)[:-1] + ', "rows": [\n' + rows + "\n]}\n").encode()
    with replacing(path) as partial:
        partial.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_table(path: Path, parse: Callable[[str], DetectorSpec] = parse_detector) -> Table:
    """The table of a file; StudyError, in one line, for whatever is wrong with it."""
    raw = _read(path)
    try:
        found = _File.model_validate(raw)
    except ValidationError as problem:
        raise explain(problem, str(path), StudyError, _File) from None
    rows: dict[DetectorSpec, Row] = {}
    for number, row in enumerate(found.rows):
        where = f"{path}: rows.{number}"
        try:
            spec = parse(row.code)
        except SpecError as error:
            hint = "install the packages of modules that it was recorded with"
            expected = "an architecture that this installation knows"
            raise StudyError(f"{where}.code", expected, str(error), hint) from None
        if spec in rows:
            raise StudyError(f"{where}.code", "every detector once", row.code)
        trainings = {int(seed): Training(t.by_epochs(), t.failed) for seed, t in row.trainings.items()}
        rows[spec] = Row(code=row.code, spec=spec, cost=_cost(row, found.protocol, where), trainings=trainings)
    table = Table(rows=tuple(rows.values()), choices=found.space, provenance=found.provenance)
    if not table.epochs:
        raise StudyError(str(path), "a detector that was trained, scored after the same epochs as others", "none", HINT)
    return table


def _read(path: Path) -> Any:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(str(path), "a table that can be read", str(error), HINT) from error
    if len(content) > MAX_BYTES:
        raise StudyError(str(path), f"a table of at most {MAX_BYTES} bytes", "more")
    try:
        return json.loads(content, object_pairs_hook=_unique, parse_constant=_number)
    except (ValueError, RecursionError) as error:
        raise StudyError(str(path), "JSON", str(error), HINT) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; ValueError where a key stands twice, of which json would keep the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"key {name!r} twice")
        found[name] = value
    return found


def _number(constant: str) -> float:
    raise ValueError(f"{constant}, which is no JSON")


def _shared_protocol(table: Table) -> dict[str, Any]:
    """What the protocols of all latencies have in common."""
    protocols = [asdict(row.cost.latency.protocol) for row in table.rows if row.cost.latency is not None]
    first = protocols[0] if protocols else {}
    return {name: value for name, value in first.items() if all(other[name] == value for other in protocols)}


def _row(row: Row, shared: Mapping[str, Any]) -> dict[str, Any]:
    latency = None
    if row.cost.latency is not None:
        latency = asdict(row.cost.latency)
        latency["protocol"] = {name: v for name, v in latency["protocol"].items() if name not in shared}
    cost = {"params": row.cost.params, "macs": row.cost.macs, "memory_access": row.cost.memory_access}
    trainings = {str(seed): _training(training) for seed, training in sorted(row.trainings.items())}
    return {"code": row.code, **cost, "latency": latency, "trainings": trainings}


def _training(training: Training) -> dict[str, Any]:
    names = sorted({name for figures in training.figures.values() for name in figures})
    epochs = sorted(training.figures)
    figures = {name: [training.figures[e].get(name) for e in epochs] for name in names}
    return {"epochs": epochs, "figures": figures, "failed": training.failed}


def _cost(row: _Row, shared: Mapping[str, Any], where: str) -> CostMetrics:
    latency = None
    if row.latency is not None:
        given = row.latency
        try:
            protocol = _PROTOCOL.validate_python({**shared, **given.protocol})
        except ValidationError as problem:
            wrong = problem.errors()[0]
            found = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
            raise StudyError(f"{where}.latency.protocol", "how it was measured", found, HINT) from None
        latency = Latency(median_ms=given.median_ms, iqr_ms=given.iqr_ms, steady=given.steady, protocol=protocol)
    return CostMetrics(params=row.params, macs=row.macs, memory_access=row.memory_access, latency=latency)


def _text(value: Any) -> str:
    def rounded(item: Any) -> Any:
        if isinstance(item, float):
            return round(item, DIGITS)
        if isinstance(item, dict):
            return {key: rounded(inner) for key, inner in item.items()}
        return [rounded(inner) for inner in item] if isinstance(item, list | tuple) else item

    return json.dumps(rounded(value), ensure_ascii=False, allow_nan=False)
