"""The study of decoupling at a small size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detsearch.supernet.cells import Architecture
from tests.benchmarks.scripts import Load


def test_decoupling_is_studied_and_goes_on_as_if_it_had_not_been_stopped(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decoupling = load("decoupling")
    sizes = ["--images", "17", "--test-images", "9", "--cells", "3", "--channels", "2", "--train-cells", "3"]
    steps = [
        "--warm-up",
        "1",
        "--epochs",
        "2",
        "--batch",
        "4",
        "--train-channels",
        "2",
        "--train-epochs",
        "1",
        "--train-batch",
        "8",
    ]
    counts = ["--arms", "decoupled", "unshared", "--searches", "1", "--trainings", "2"]
    calls: list[str] = []

    def study(out: str, runs: str) -> list[dict[str, Any]]:
        places = ["--runs", str(tmp_path / runs), "--out", str(tmp_path / out)]
        decoupling.main([*sizes, *steps, *counts, *places])
        rows: list[dict[str, Any]] = json.loads((tmp_path / out).read_text())["rows"]
        return [{name: row[name] for name in ("arm", "cells", "shares", "ahead", "entropy", "errors")} for row in rows]

    whole = study("whole.json", "whole")
    assert [row["arm"] for row in whole] == ["decoupled", "unshared"]
    for row in whole:
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert row["ahead"] * 14 == pytest.approx(round(row["ahead"] * 14))
        assert all(error * 9 == pytest.approx(round(error * 9)) for error in row["errors"])
    assert "| unshared |" in capsys.readouterr().out

    for name in ("searched", "trained"):
        plain = getattr(decoupling.Study, name)
        monkeypatch.setattr(
            decoupling.Study, name, lambda *a, plain=plain: (calls.append(plain.__name__), plain(*a))[1]
        )
    assert study("again.json", "whole") == whole
    assert calls == []
    (tmp_path / "whole" / "unshared-0.json").unlink()
    (tmp_path / "whole" / "decoupled-0-1.json").unlink()
    assert study("rest.json", "whole") == whole
    assert calls == ["trained", "searched"]
    with pytest.raises(SystemExit, match="2"):
        decoupling.main([*sizes, *steps, *counts, "--lr", "0.2", "--runs", str(tmp_path / "whole")])
    assert "a result with lr 0.2, got one with 0.025" in capsys.readouterr().err


def test_choices_are_counted_by_search(load: Load) -> None:
    def row(arm: str, first: float, second: float, ahead: float, *errors: float) -> dict[str, Any]:
        rest = 1 - first - second
        shares = {"sep1": first, "sep2": second, "sep3": 0, "sep1d2": 0, "sep2d2": 0, "skip": rest}
        return {"arm": arm, "shares": shares, "ahead": ahead, "errors": list(errors)}

    rows = [row("a", 0.5, 0.25, 0.5, 0.1, 0.2), row("b", 0.25, 0, 0.5, 0.25)]
    rows += [row("a", 0.75, 0.25, 0.75, 0.05), row("b", 0, 0.5, 0.75, 0.25)]
    _, _, first, second = load("decoupling").table(rows, ["a", "b"], "sep")
    assert first == "| a | 87.5 ± 158.8 % | 62 % | 25 % | 12 % |  | 62.5 ± 158.8 % |  | 10.0 ± 63.5 % |  |"
    assert second.startswith(
        "| b | 37.5 ± 158.8 % | 12 % | 25 % | 62 % | -50.0 ± 0.0 % | 62.5 ± 158.8 % | 0.0 ± 0.0 % |"
    )
    assert second.endswith("| 25.0 ± 0.0 % | 15.0 ± 63.5 % |")


def test_t1_and_t2_are_ahead_of_the_other_convolutions(load: Load) -> None:
    alpha = torch.zeros(14, 7)
    alpha[:, 5:] = 9  # the identity and 'none' have no part in it
    alpha[:3, 0] = alpha[3:7, 1] = 1
    alpha[7:, 2] = alpha[7:9, 4] = 1
    architecture = Architecture(["normal"], {"normal": tuple("123456")}, nodes=4, generator=torch.Generator())
    architecture.alpha["normal"].data.copy_(alpha)
    assert load("decoupling")._ahead(architecture) == 0.5


def test_pickled_images_are_refused(tmp_path: Path, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(SystemExit, match="2"):
        load("decoupling").main(["--data", str(tmp_path), "--runs", str(tmp_path / "runs")])
    assert "pickles, which could run code and are never read" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--cells 2", "--batch 90 --images 100", "--device abacus", "--data nowhere"])
def test_a_study_of_decoupling_that_cannot_be_is_one_line(
    tmp_path: Path, load: Load, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        load("decoupling").main([*wrong.split(), "--test-images", "4", "--runs", str(tmp_path / "runs")])
    assert ": error: " in capsys.readouterr().err.splitlines()[-1]
