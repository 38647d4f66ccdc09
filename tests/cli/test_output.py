"""What commands print, whatever names of files and classes hold, and wherever it goes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from detsearch.cli.main import MENDABLE, OK, run
from detsearch.cli.output import log, print_json, say
from detsearch.evaluation.predict import ImagePrediction
from detsearch.files import write_json

Out = pytest.CaptureFixture[str]

NAMES = {"\ud800cat": "\\ud800cat", "\udcff.jpg": "\\udcff.jpg", "\x1b[31mred": "\\x1b[31mred", "\x9b1m": "\\x9b1m"}
"""Half of a surrogate pair, a file name that is no UTF-8, what colours a terminal (twice), and how they are shown."""


def test_lines_show_what_is_not_printable(capsys: Out) -> None:
    for name, shown in NAMES.items():
        say(f"{name}: 3\nKatze ü [b]")
        log(name)
        printed = capsys.readouterr()
        assert printed.out == f"{shown}: 3\nKatze ü [b]\n"
        assert printed.err == f"{shown}\n"


def test_json_is_ascii_and_reads_as_what_it_was(capsys: Out) -> None:
    print_json(list(NAMES))
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert "\x1b" not in printed
    assert json.loads(printed) == list(NAMES)


def test_files_of_json_hold_any_name(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", [*NAMES, "Katze ü"])
    content = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "Katze ü" in content
    assert json.loads(content) == [*NAMES, "Katze ü"]


def test_a_class_that_no_encoding_holds_is_a_defect_of_the_data(tmp_path: Path, capsys: Out) -> None:
    for name, shown in NAMES.items():
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": name}]}
        (tmp_path / "a.json").write_text(json.dumps(content))
        path = tmp_path / "coco.yaml"
        path.write_text("format: coco\nroot: .\nsplits: {train: {images: ., annotations: a.json}}\n")
        assert run(["data", "check", str(path)]) == MENDABLE
        printed = capsys.readouterr()
        assert shown in printed.out
        assert "\x1b" not in printed.out
        assert printed.err == ""


def test_an_image_whose_name_is_no_utf_8(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    path = Path("\udcff.jpg")

    def answers(*_: object, **__: object) -> Iterator[tuple[Path, ImagePrediction, tuple[str, ...]]]:
        none = np.zeros(0)
        yield path, ImagePrediction(1, np.zeros((0, 4)), none, none.astype(np.int64)), ("cat",)

    monkeypatch.setattr("detsearch.runs.predict.predict_images", answers)
    assert run(["predict", "x.pt", str(path)]) == OK
    assert capsys.readouterr().out == "\\udcff.jpg: nothing\n"
    assert run(["predict", "x.pt", str(path), "--json"]) == OK
    assert json.loads(capsys.readouterr().out)[0]["image"] == str(path)


@pytest.mark.parametrize("command", [["modules"], ["modules", "--json"], ["--version"]])
def test_a_full_disk_behind_standard_output(command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no device that is full")
    with open("/dev/full", "w") as full:  # closed without another error
        monkeypatch.setattr("sys.stdout", full)
        assert run(command) == MENDABLE
    assert capsys.readouterr().err.startswith("detsearch: standard output: expected a place that can be written, got ")


@pytest.mark.parametrize("command", [["modules"], ["modules", "--json"]])
def test_a_reader_that_has_had_enough_is_no_fault(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert run(command) == OK
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", ["--threads=1025", "--runs=100001", "--seconds=601", "--threads=0", "--runs=2"])
def test_what_is_measured_is_bounded_as_in_recipes(option: str, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    def measured(*_: object, **__: object) -> None:
        raise AssertionError("nothing is measured")

    monkeypatch.setattr("detsearch.runs.inspect.measure_latency", measured)
    assert run(["latency", "retinanet_slim", option]) == MENDABLE
    assert option.partition("=")[0] in capsys.readouterr().err
