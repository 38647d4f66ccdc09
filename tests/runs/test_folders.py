"""A folder of one kind of run is refused by the others, and nothing in it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from detsearch.cli.main import MENDABLE, OK, run
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
