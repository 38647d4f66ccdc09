"""The benchmarks that rest on recorded tables run, on a small generated one."""

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
