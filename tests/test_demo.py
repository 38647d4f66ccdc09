"""The demo as the issue asks for it: minutes long, so run with -m slow."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from detsearch.arch.code import parse_detector
from detsearch.build import build
from detsearch.cli.main import OK, run
from detsearch.runs.data import load_split
from detsearch.runs.recipe import load_recipe
from detsearch.runs.score import score
from detsearch.runs.settings import SearchRecipe
from detsearch.runtime.eager import EagerRuntime
from detsearch.search.ledger import read_study
from detsearch.search.pareto import front
from detsearch.training.seeding import seed_all

BETTER = 0.03
"""AP by which a front point must be above the untrained detector, whose AP is below 0.005."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_demo(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    began = time.monotonic()
    assert run(["demo", "--out", str(out), "--seed", str(seed), "--json"]) == OK
    seconds = time.monotonic() - began
    summary = json.loads(capsys.readouterr().out)
    assert summary["trained"] >= 8
    assert summary["front"] >= 3
    for name in ("report.html", "report.md", "recipe.yaml"):
        assert (out / name).stat().st_size > 0
    study = read_study(out)
    recipe = load_recipe(SearchRecipe, out / "recipe.yaml")
    val = load_split(recipe.data.file, recipe.data.val)
    for trial in front(study.trials, study.objectives):
        seed_all(seed)
        spec = parse_detector(trial.code)
        untrained = EagerRuntime(build(spec.network, len(val.classes)))
        gained = trial.values()["ap"] - (score(untrained, spec.input, val, batch=8).coco.ap or 0.0)
        assert gained > BETTER, trial.code
    assert seconds < 600, "the demo is to take at most 10 minutes on 2 cores"
