"""Benchmarks run: those that rest on recorded tables on a small generated one, those of supernets on small ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detsearch.search.tablefile import write_table
from tests.search.generated import CHOICES, generated

ROOT = Path(__file__).resolve().parents[1]
SMALL = {**CHOICES, "backbone": CHOICES["backbone"][:3], "neck": CHOICES["neck"][1:]}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "small.json.gz"
    write_table(generated(0, choices=SMALL), path)
    return path


def test_searchers_are_compared(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    only = ["evolution", "random", "surrogate", "surrogate, pruning, halving"]
    command = [
        sys.executable,
        "benchmarks/searchers.py",
        str(table),
        "--seeds",
        "2",
        "--epochs",
        "264",
        "--out",
        str(out),
    ]
    done = subprocess.run(
        [*command, "--processes", "1", "--only", *only],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (out / "small.md").read_text()
    assert text.strip() == done.stdout.strip()
    for name in only:
        assert f"| {name} |" in text
    assert "The partial order compares" in text
    assert "- against *random*, at 3 budgets" in text
    assert "all, random order, pruning" in text
    assert (out / "small.svg").read_text().startswith("<?xml")
    curves = json.loads((out / "small.json").read_text())["curves"]
    assert {len(found) for found in curves.values()} == {2}
    for curve in curves["random"]:
        assert curve["epochs"] == [12 * n for n in range(1, 23)]
        assert 0 < curve["share"][-1] <= 1


def ran(script: str, *options: str) -> None:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}.py", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_small_teacher_is_found(tmp_path: Path) -> None:
    space = ["--nodes", "1", "--operations", "rf5", "--iterations", "60"]
    ran("teachers", "--seeds", "1", *space, "--fit", "5", "--controls", "decoupled", "--out", str(tmp_path / "found"))
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert row["decoupled"]["recovered"] == 1.0
    assert row["decoupled"]["loss"] < 0.7
    assert 0.4 < row["chance"] < 0.6
    assert len(row["fit"]["random"]) == 10
    assert "| chance |" in (tmp_path / "found.md").read_text()


@pytest.mark.slow
def test_supernets_are_compared(tmp_path: Path) -> None:
    network = "basicblock_8_1-2-2-2(stem=7x7)/fpn(width=16)/fcos"
    small = ["--size", "64x64", "--batch", "1", "--width", "8", "--operations", "rf5", "--seconds", "0"]
    ran("supernet", "--network", network, *small, "--threads", "1", "--out", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["rows"]) == 10
    assert [row["ratio"] for row in found["ratios"]][-3:] == ["alpha alone", "edges together", "all together"]
    kept = [row["kept"] for row in found["ratios"] if "kept" in row]
    assert max(kept[:2]) < 1
    assert kept[2:] == pytest.approx([1, 1], abs=0.1)
