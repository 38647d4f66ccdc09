from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detsearch.arch.spaces.section import read_space
from detsearch.errors import StudyError, TrainingError
from detsearch.search.pareto import non_dominated
from detsearch.search.table import Row, Table, Training
from detsearch.search.tablefile import MAX_BYTES, read_table, write_table
from detsearch.search.trial import TrialContext
from detsearch.types import Fidelity
from tests.search.generated import CHOICES, EPOCHS, OBJECTIVES, generated

SMALL = {**CHOICES, "backbone": CHOICES["backbone"][:2], "input": CHOICES["input"][:1]}
TABLE = generated(3, choices=SMALL)
HERE = TrialContext(folder=Path("nowhere"))


def without(table: Table, index: int, **changes: Any) -> Table:
    rows = list(table.rows)
    rows[index] = replace(rows[index], **changes)
    return replace(table, rows=tuple(rows))


def test_a_table_answers_as_training_would() -> None:
    row = TABLE.rows[5]
    assert TABLE.cost(row.spec) is row.cost
    found = {TABLE.evaluate(row.spec, Fidelity(4), seed, HERE).values["ap"] for seed in range(10)}
    assert found == {training.figures[4]["ap"] for training in row.trainings.values()}
    assert len(found) == 2
    early, late = (TABLE.evaluate(row.spec, Fidelity(e), 7, HERE) for e in (2, 12))
    assert early.provenance["seed"] == late.provenance["seed"], "one training, looked at twice"
    assert (TABLE.seeds, TABLE.epochs, TABLE.full) == ((0, 1), EPOCHS, Fidelity(12))
    mean = np.mean([training.figures[12]["ap"] for training in row.trainings.values()])
    assert row.cost.latency is not None
    assert TABLE.values(OBJECTIVES)[5] == pytest.approx([-mean, row.cost.latency.median_ms])


def test_what_is_missing_is_told() -> None:
    row = TABLE.rows[0]
    table = without(TABLE, 0, trainings={1: Training({2: {"ap": 0.1}}, failed="loss is nan")})
    table = without(table, 1, trainings={})
    assert table.missing == [row.code, table.rows[1].code]
    assert table.epochs == EPOCHS, "a failed training says nothing of what was recorded"
    assert table.evaluate(row.spec, Fidelity(2), 0, HERE).values == {"ap": 0.1}
    with pytest.raises(TrainingError, match="loss is nan"):
        table.evaluate(row.spec, Fidelity(4), 0, HERE)
    with pytest.raises(TrainingError, match="never trained"):
        table.evaluate(table.rows[1].spec, Fidelity(4), 0, HERE)
    with pytest.raises(StudyError, match="recorded detectors"):
        table.cost(row.spec.network.at(generated().rows[-1].spec.input))
    values = table.values(OBJECTIVES)
    assert np.isnan(values[:2, 0]).all()
    assert non_dominated(values).any(), "the others have their front"
    space = read_space(SMALL)
    part = table.within(space)
    assert (part.size(), space.size()) == (23, 24)
    assert not part.contains(table.rows[1].spec)
    assert table.rows[1].spec not in set(part.neighbours(row.spec))
    rng = np.random.default_rng(0)
    assert all(part.contains(part.mutate(part.sample(rng), rng)) for _ in range(200))
    assert TABLE.within(space) is space


@pytest.mark.parametrize("name", ["table.json", "table.json.gz"])
def test_files_hold_it_all(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table = without(TABLE, 0, trainings={1: Training({2: {"ap": 0.1}, 4: {}}, failed="loss is nan")})
    table = without(table, 1, cost=replace(table.rows[1].cost, latency=None))
    write_table(table, path)
    first = path.read_bytes()
    read = read_table(path)
    assert [row.code for row in read.rows] == [row.code for row in table.rows]
    assert read.rows[0].trainings == table.rows[0].trainings
    assert read.rows[2].trainings == table.rows[2].trainings
    assert read.rows[1].cost.latency is None
    latency, kept = (t.rows[2].cost.latency for t in (table, read))
    assert latency is not None
    assert kept == replace(latency, median_ms=round(latency.median_ms, 6), iqr_ms=round(latency.iqr_ms, 6))
    assert (read.choices, read.provenance) == (SMALL, {"generated": 3})
    write_table(read, path)
    assert path.read_bytes() == first


def spoilt(change: Any) -> bytes:
    raw = {
        "format": "detsearch table", "version": 1, "space": {}, "provenance": {}, "protocol": {},
        "rows": [{"code": TABLE.rows[0].code, "params": 1, "macs": 1, "memory_access": 1, "latency": None,
                  "trainings": {"0": {"epochs": [1, 2], "figures": {"ap": [0.1, 0.2]}}}}],
    }  # fmt: skip
    change(raw)
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x1f\x8b nonsense", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "table.json"),
        (b'{"format": "other"}', "format"),
        (spoilt(lambda raw: raw.update(version=2)), "version"),
        (spoilt(lambda raw: raw.update(rows=[])), "rows"),
        (spoilt(lambda raw: raw["rows"].append(raw["rows"][0])), "every detector once"),
        (spoilt(lambda raw: raw["rows"][0].update(code="__import__('os')")), "rows.0.code"),
        (spoilt(lambda raw: raw["rows"][0].update(params=-1)), "rows.0.params"),
        (spoilt(lambda raw: raw["rows"][0].update(trainings={})), "a detector that was trained"),
        (spoilt(lambda raw: raw["rows"][0]["trainings"]["0"].update(epochs=[2, 1])), "ascending"),
        (spoilt(lambda raw: raw["rows"][0]["trainings"]["0"].update(epochs=[1])), "1 values of ap"),
        (spoilt(lambda raw: raw["rows"][0]["trainings"]["0"]["figures"].update(ap=[0, float("nan")])), "NaN"),
        (spoilt(lambda raw: raw["rows"][0]["trainings"]["0"]["figures"].update(ap=[0, 1e13])), "ap"),
        (spoilt(lambda raw: raw["rows"][0].update(latency={"median_ms": 1, "iqr_ms": 0, "steady": True})), "protocol"),
        (spoilt(lambda raw: raw["rows"][0].update(nonsense=1)), "nonsense"),
    ],
)
def test_hostile_files_are_refused_in_a_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=told) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('"trainings": {"0"', '"trainings": {"00"', "00"),
        ('"trainings": {"0"', '"trainings": {"1"', "key '1' twice"),
        ('"threads": 1', '"threads": "many"', "protocol.*threads"),
        ('"ap"', '"a\\u001bp"', "figures"),
        ('"epochs": [1, 2', f'"epochs": [{10**400}, 2', "epochs"),
        ('"median_ms": ', '"median_ms": -', "median_ms"),
    ],
    ids=["seed spelt otherwise", "key twice", "protocol", "name of a figure", "epochs", "latency"],
)
def test_fields_that_cannot_be_are_refused_in_a_line(tmp_path: Path, before: str, after: str, told: str) -> None:
    path = tmp_path / "table.json"
    write_table(TABLE, path)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(StudyError, match=told) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


def test_what_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json.gz"
    path.write_bytes(gzip.compress(b" " * (MAX_BYTES + 10), 1))
    with pytest.raises(StudyError, match="at most"):
        read_table(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(StudyError, match="can be read"):
        read_table(path)
    with pytest.raises(StudyError, match="can be read"):
        read_table(tmp_path / "absent.json")


def test_every_detector_once() -> None:
    row = TABLE.rows[0]
    with pytest.raises(AssertionError, match="once"):
        Table(rows=(row, Row(code=row.code, spec=row.spec, cost=row.cost, trainings={})))
