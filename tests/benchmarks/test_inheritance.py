"""The benchmark of inherited weights runs, on a set that takes no time, and goes on where it was stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.benchmarks.scripts import ROOT
from tests.runs.conftest import DATA


@pytest.mark.slow
def test_parents_and_children_are_trained_both_ways(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(DATA))
    recipe = {
        "data": {"file": str(tmp_path / "data.yaml")},
        "space": {
            "backbone": [f"basicblock_4_1-{rest}" for rest in ("2-2-2", "2-2-21", "2-21-2", "21-2-2")],
            "neck": ["fpn(levels=4-5,width=8)"],
            "proposals": ["none"],
            "head": ["retinanet(depth=1)", "retinanet(depth=2)"],
            "norm": ["gn"],
            "input": ["64x64"],
        },
        "training": {"epochs": 12, "batch": 4, "warmup_steps": 4},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "benchmarks/inheritance.py", "--recipe", str(tmp_path / "recipe.yaml")]
    command += ["--set", "data.cache_mb=0", "--parents", "1", "--children", "4", "--epochs", "3"]
    command += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "found")]

    def run() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["trainings"]) == len(list((tmp_path / "runs").glob("*.json"))) == 1 + 4 * 5
    for name, training in found["trainings"].items():
        assert sorted(training["ap"]) == (["1"] if "short" in name else ["1", "2", "3"])
        assert ("inherited" in training["provenance"]) == ("inherited" in name)
        if "inherited" in name:
            assert training["provenance"]["inherited"]["epochs"] == 3
    assert all(0 < share <= 1 for share in found["summary"]["share_inherited"])
    assert (tmp_path / "found.md").read_text().strip() == done.stdout.strip()
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 8

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}
    lost = tmp_path / "runs" / "child-2-inherited-short.json"
    lost.unlink()
    again = run()
    assert again.returncode == 0, again.stderr
    figures = json.loads((tmp_path / "found.json").read_text())["summary"]
    assert figures == found["summary"]
    assert lost.exists()
    assert all(path.stat().st_mtime_ns == when for path, when in before.items() if path != lost)
    command[command.index("--epochs") + 1] = "6"
    other = run()
    assert other.returncode == 2
    assert "choose another --runs folder" in other.stderr
    assert "Traceback" not in other.stderr
