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


def test_what_does_not_belong_together_is_refused(place: Path, tmp_path: Path) -> None:
    studies = [place / "zero", place / "one"]
    out = tmp_path / "table.json"
    with pytest.raises(StudyError, match="seed of its own"):
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
