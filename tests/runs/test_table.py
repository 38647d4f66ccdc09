from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from detsearch.cli.main import MENDABLE, OK, run
from detsearch.errors import StudyError
from detsearch.runs.latencies import measure_again, read_latencies
from detsearch.runs.recipe import load_recipe
from detsearch.runs.search import search_structure
from detsearch.runs.settings import SearchRecipe
from detsearch.runs.table import collect_table
from detsearch.search.tablefile import read_table
from tests.runs.conftest import DATA


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``recipe.yaml`` and two studies of a space of two detectors: ``zero`` has tried both with seed 0,
    ``one``, which is not finished, one of them with seed 1."""
    here = tmp_path_factory.mktemp("studies")
    (here / "data.yaml").write_text(yaml.safe_dump(DATA))
    raw = {
        "data": {"file": str(here / "data.yaml")},
        "space": {
            "backbone": ["basicblock_4_1-2-2-2", "basicblock_4_1-2-2-21"],
            "neck": ["fpn(levels=4-5,width=8)"],
            "proposals": ["none"],
            "head": ["retinanet(depth=1)"],
            "norm": ["gn"],
            "input": ["64x64"],
        },
        "training": {"epochs": 2, "batch": 4, "warmup_steps": 1, "eval_epochs": 1},
        "search": {"strategy": "all"},
        "latency": {"warmup": 1, "runs": 3, "seconds": 0.01},
        "device": "cpu",
    }
    (here / "recipe.yaml").write_text(yaml.safe_dump(raw))
    for name, settings in (("zero", ["seed=0"]), ("one", ["seed=1", "budget.trials=1"])):
        search_structure(load_recipe(SearchRecipe, here / "recipe.yaml", settings), here / name)
    return here


def test_from_studies_to_a_table(place: Path, tmp_path: Path, capsys: Any) -> None:
    studies = [place / "zero", place / "one"]
    out = tmp_path / "table.json.gz"
    assert run(["study", "table", *map(str, studies), "--out", str(out)]) == OK
    assert "seed 1: 1 were not trained yet" in capsys.readouterr().out
    table = read_table(out)
    assert (len(table.rows), table.seeds, table.epochs) == (2, (0, 1), (1, 2))
    assert table.missing == [table.rows[1].code]
    for row in table.rows:
        assert row.cost.latency is not None
        for training in row.trainings.values():
            early, late = training.figures[1], training.figures[2]
            assert 0 < early["train_seconds"] < late["train_seconds"]
            assert early.keys() == late.keys()
            assert {"ap", "voc_ap50"} <= late.keys()
    assert table.provenance["seeds"] == [0, 1]
    assert isinstance(table.provenance["trained_on"], dict)
    assert set(table.provenance["trained_on"]) == {"0", "1"}
    assert set(table.choices) == {"backbone", "neck", "proposals", "head", "norm", "input"}

    # Latencies measured alone take the place of the studies' own, and a file of them is gone on with.
    measured = tmp_path / "latencies.json"
    command = ["study", "latency", str(studies[0]), "--out", str(measured), "--json"]
    assert run([*command, "--set", "latency.runs=4"]) == OK
    assert json.loads(capsys.readouterr().out)["detectors"] == 2
    raw = json.loads(measured.read_text())
    for number, entry in enumerate(raw["latencies"].values()):
        entry.update(steady=True, median_ms=100.0 + number)
    measured.write_text(json.dumps(raw))
    again: list[str] = []
    known = measure_again(
        studies[0], measured, settings=["latency.runs=4"], on_measured=lambda n, count, code, found: again.append(code)
    )
    assert not again, "all are steady"
    known.by_code.popitem()
    del raw["latencies"][next(iter(raw["latencies"]))]
    measured.write_text(json.dumps(raw))
    measure_again(
        studies[0], measured, settings=["latency.runs=4"], on_measured=lambda n, count, code, found: again.append(code)
    )
    assert len(again) == 1, "what was missing"
    with pytest.raises(StudyError, match="another file"):
        measure_again(studies[0], measured, settings=["latency.runs=5"])
    collect_table(studies, out, measured)
    table = read_table(out)
    assert sorted(row.cost.latency.median_ms for row in table.rows if row.cost.latency)[-1] >= 100
    assert table.provenance["latency_from"] == {**read_latencies(measured).how, "rounds": 1}


def test_a_seed_is_added_to_a_table(place: Path, tmp_path: Path, capsys: Any) -> None:
    """The same as if the first study's folder were still there, but that its latencies stay whatever later ones say."""
    zero, one, out = place / "zero", place / "one", tmp_path / "table.json"
    collect_table([zero], out)
    first = read_table(out)
    raw = json.loads(out.read_text())
    raw["provenance"]["trained_on"]["0"] = "another machine"
    out.write_text(json.dumps(raw))
    assert run(["study", "table", str(one), str(out), "--out", str(out)]) == OK
    assert "seed 0: complete\nseed 1: 1 were not trained yet" in capsys.readouterr().out
    together = tmp_path / "together.json"
    collect_table([zero, one], together)
    grown, expected = read_table(out), read_table(together)
    assert [row.trainings for row in grown.rows] == [row.trainings for row in expected.rows]
    assert [row.cost for row in grown.rows] == [row.cost for row in first.rows]
    assert grown.provenance["seeds"] == [0, 1]
    assert grown.provenance["versions"] == expected.provenance["versions"]
    assert grown.provenance["latency_from"] == first.provenance["latency_from"]
    assert grown.provenance["trained_on"] == {**expected.provenance["trained_on"], "0": "another machine"}
    content = out.read_bytes()
    collect_table([out], out)
    assert out.read_bytes() == content


def test_what_a_table_cannot_take_is_refused(place: Path, tmp_path: Path) -> None:
    zero, one, out = place / "zero", place / "one", tmp_path / "table.json"
    collect_table([zero], out)
    raw = json.loads(out.read_text())

    def refused(match: str, **changes: Any) -> None:
        out.write_text(json.dumps({**raw, **changes}))
        content = out.read_bytes()
        with pytest.raises(StudyError, match=match):
            collect_table([out, one], out)
        assert out.read_bytes() == content

    training = {**raw["provenance"]["training"], "lr": 0.5}
    refused(r"training\.lr", provenance={**raw["provenance"], "training": training})
    refused("space", space={**raw["space"], "norm": ["gn_ws"]})
    rows = raw["rows"]
    refused("macs of .* expected 5", rows=[{**rows[0], "macs": 5}, rows[1]])
    refused(r"table\.json: .*the latency of", rows=rows[1:])
    with pytest.raises(StudyError, match="seeds that nothing before it has"):
        collect_table([tmp_path / "table.json", zero], tmp_path / "other.json")
    out.write_text(json.dumps({**raw, "provenance": {**raw["provenance"], "training": float("nan")}}))
    with pytest.raises(StudyError, match="NaN, which is no JSON"):
        read_table(out)


def test_what_does_not_belong_together_is_refused(place: Path, tmp_path: Path) -> None:
    studies = [place / "zero", place / "one"]
    out = tmp_path / "table.json"
    with pytest.raises(StudyError, match="seeds that nothing before it has"):
        collect_table([studies[0], studies[0]], out)
    other = tmp_path / "other"
    settings = ["seed=2", "training.lr=0.02", "limits=['params<=9']"]
    search_structure(load_recipe(SearchRecipe, place / "recipe.yaml", settings), other)
    with pytest.raises(StudyError, match=r"training\.lr"):
        collect_table([studies[0], other], out)
    with pytest.raises(StudyError, match="was trained"):
        collect_table([other], out)
    empty = tmp_path / "latencies.json"
    empty.write_text('{"format": "detsearch latencies", "version": 1, "how": {}, "latencies": {}}')
    with pytest.raises(StudyError, match="the latency of"):
        collect_table(studies, out, empty)
    assert not out.exists()
    for content in ("[]", "{", '{"format": 1}', "[" * 100_000):
        empty.write_text(content)
        with pytest.raises(StudyError, match=r"latencies\.json"):
            collect_table(studies, out, empty)
    assert run(["study", "table", str(tmp_path), "--out", str(out)]) == MENDABLE
