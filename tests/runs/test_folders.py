"""A folder of one kind of run is refused by the others, and nothing in it changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from detsearch.cli.main import MENDABLE, OK, run
from detsearch.errors import ResourceError
from detsearch.runs import search as runs_search
from tests.runs.conftest import DATA, TINY

Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training in ``training``, one that was stopped before its first checkpoint in ``begun``, and two
    studies that tried nothing in ``study`` and ``other``."""
    here = tmp_path_factory.mktemp("runs")
    (here / "data.yaml").write_text(yaml.safe_dump(DATA))
    assert run([*train(here), "--out", str(here / "training")]) == OK
    (here / "begun").mkdir()
    (here / "begun" / "recipe.yaml").write_bytes((here / "training" / "recipe.yaml").read_bytes())
    for name in ("study", "other"):
        run([*search(here), "--out", str(here / name), "--set", "limits=[params<=1]"])
        assert (here / name / "ledger.db").is_file()
    return here


def train(here: Path) -> list[str]:
    command = ["train", TINY, "--data", str(here / "data.yaml"), "--epochs", "1", "--device", "cpu"]
    return [*command, "--set", "training.batch=8"]


def search(here: Path) -> list[str]:
    backbone, neck, head, norm, size = TINY.replace("@", "/").split("/")
    space = f"space={{backbone: [{backbone}], neck: ['{neck}'], head: ['{head}'], norm: [{norm}], input: [{size}]}}"
    command = ["search", "structure", "--data", str(here / "data.yaml"), "--device", "cpu", "--set", space]
    return [*command, "--set", "latency.seconds=0.01", "--set", "latency.runs=3", "--set", "latency.warmup=1"]


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refused(command: list[str], place: Path, capsys: Out) -> str:
    """The one line that a refused command prints, once nothing on disk has changed."""
    before = contents(place)
    capsys.readouterr()
    assert run(command) == MENDABLE
    assert contents(place) == before
    line = capsys.readouterr().err.strip()
    assert len(line.splitlines()) == 1, line
    return line


@pytest.mark.parametrize("folder", ["training", "begun"])
def test_a_search_leaves_a_training_alone(place: Path, folder: str, capsys: Out) -> None:
    message = refused([*search(place), "--out", str(place / folder)], place, capsys)
    assert "expected a new folder or a study's, got one with a recipe.yaml and no ledger.db" in message
    assert "recipe.yaml" in refused(["demo", "--out", str(place / folder)], place, capsys)
    assert run([*train(place), "--out", str(place / "training")]) == OK, "it can still be repeated"


def test_a_training_leaves_a_study_alone(place: Path, capsys: Out) -> None:
    assert "got a study's" in refused([*train(place), "--out", str(place / "study")], place, capsys)
    trial = place / "study" / "trials" / "0007"
    trial.mkdir()
    (trial / "checkpoint.pt").write_bytes(b"")
    assert "and no recipe.yaml" in refused([*train(place), "--out", str(trial)], place, capsys)
    assert "with a checkpoint.pt" in refused([*search(place), "--out", str(trial)], place, capsys)


COMPARISON = {
    "base": {"detector": TINY, "data": {"file": "synthetic"}, "device": "cpu"},
    "arms": {"a": {}},
    "seeds": [0],
}


@pytest.mark.parametrize("kind", ["head", "compare", "all"])
def test_every_other_run_leaves_studies_and_trainings_alone(place: Path, kind: str, capsys: Out) -> None:
    """Also a study that was killed before its recipe was written."""
    (place / "killed").mkdir(exist_ok=True)
    (place / "killed" / "ledger.db").write_bytes((place / "study" / "ledger.db").read_bytes())
    recipe = place / f"{kind}.yaml"
    recipe.write_text(yaml.safe_dump(COMPARISON if kind == "compare" else {"structure": {}}))
    command = {
        "head": ["search", "head", "--detector", TINY, "--data", str(place / "data.yaml"), "--device", "cpu"],
        "compare": ["compare", "--recipe", str(recipe)],
        "all": ["search", "all", "--recipe", str(recipe)],
    }[kind]
    for folder, sign, words in (
        ("study", "ledger.db", "a study's"),
        ("killed", "ledger.db", "a study's"),
        ("training", "recipe.yaml", "another run's"),
    ):
        message = refused([*command, "--out", str(place / folder)], place, capsys)
        found = f"one with a {sign} and no structure/ledger.db" if kind == "all" else words
        assert f"{place / folder}: expected " in message
        assert f", got {found}; choose another --out" in message


def test_what_holds_both_stages_is_left_alone(place: Path, capsys: Out) -> None:
    stages = place / "stages" / "structure"
    stages.mkdir(parents=True)
    (stages / "ledger.db").write_bytes((place / "study" / "ledger.db").read_bytes())
    out = ["--out", str(stages.parent)]
    assert "got that of a search in two stages" in refused([*train(place), *out], place, capsys)
    assert "one with a structure/ledger.db and no ledger.db" in refused([*search(place), *out], place, capsys)


def test_a_cluster_that_is_not_there_leaves_no_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    def nowhere(*_: object) -> None:
        raise ResourceError("Ray at 10.0.0.1:6379", "a running cluster", "none")

    monkeypatch.setattr(runs_search, "make_executor", nowhere)
    message = refused([*search(place), "--out", str(place / "new")], place, capsys)
    assert "expected a running cluster" in message
    assert not (place / "new").exists()


def test_an_executor_is_closed_where_the_study_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    class Closed:
        times = 0

        def close(self) -> None:
            self.times += 1

    executor = Closed()
    monkeypatch.setattr(runs_search, "make_executor", lambda *_: executor)
    shutil.copytree(place / "study", place / "again")
    capsys.readouterr()
    assert run([*search(place), "--seed", "5", "--out", str(place / "again")]) == MENDABLE
    assert "seed" in capsys.readouterr().err
    assert executor.times == 1


def test_a_report_leaves_another_study_alone(place: Path, capsys: Out) -> None:
    study, other = str(place / "study"), str(place / "other")
    assert "another study's" in refused(["report", study, "--out", other], place, capsys)
    assert run(["report", study, "--out", study]) == OK


def test_weights_and_tables_overwrite_nothing_else(place: Path, capsys: Out) -> None:
    name, study = "fasterrcnn_resnet50_fpn", str(place / "study")
    checkpoint = str(place / "training" / "checkpoint.pt")
    assert "expected a new file" in refused(["weights", name, "--out", checkpoint], place, capsys)
    for file in ("recipe.yaml", "ledger.db", "trials"):
        message = refused(["study", "table", study, "--out", f"{study}/{file}"], place, capsys)
        assert "--out: expected a new file, or a recorded table to replace" in message
        assert refused(["study", "latency", study, "--out", f"{study}/{file}"], place, capsys)
    convert = ["data", "convert", "synthetic", "--to", "coco", "--out"]
    assert "an empty folder" in refused([*convert, study], place, capsys)
