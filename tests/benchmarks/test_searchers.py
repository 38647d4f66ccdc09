"""Searches are replayed on a small generated table; what the page says of them is what was seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from detsearch.errors import StudyError
from detsearch.runs.settings import SearchRecipe, SearchSettings
from detsearch.runs.strategies import make_search
from detsearch.search.table import Table
from detsearch.search.tablefacts import true_front
from detsearch.search.tablefile import read_table
from tests.benchmarks.scripts import ROOT, Load
from tests.search.generated import OBJECTIVES


def test_searchers_are_compared(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    only = ["evolution", "random", "surrogate", "surrogate, halving", "default"]
    done = subprocess.run(
        [sys.executable, "benchmarks/searchers.py", str(table), "--seeds", "2", "--judged", "3", "--trainings",
         "20", "--out", str(out), "--processes", "1", "--only", *only],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (out / "small.md").read_text()
    assert text.strip() == done.stdout.strip()
    for name in only:
        assert f"| {name} | {2 if name.startswith('surrogate') else 3} | " in text
    assert "full trainings take (12 each); epochs" in text
    assert "- against *random*, medians at 1 budgets" in text
    assert "It pauses after 4 and 6 of 12 epochs; in a recipe it would after 4 and 7, where" in text
    assert "all, random order, pruning: it costs" in text
    assert "--objectives ap:max,latency_ms:min --cost-seconds 2.5 --only evolution random" in text
    for budget in (10, 15, 20, 30):
        assert f"\n| {budget} | " in text
    for trials in (10, 20):
        assert f"\n| {trials} | evolution |" in text
    assert (out / "small.svg").read_text().startswith("<?xml")
    curves = json.loads((out / "small.json").read_text())["curves"]
    assert {name: len(found) for name, found in curves.items() if name in only} == {
        name: 2 if name.startswith("surrogate") else 3 for name in only
    }
    for curve in curves["random"]:
        assert curve["epochs"][-1] == curve["spent"] == 360, "baselines go on to the largest budget"
        assert curve["epochs"] == [12 * count for count in curve["costs"]]
        assert all(a != b for a, b in pairwise(curve["share"][:-1])), "only where it changed"
        assert 0 < curve["share"][-1] <= 1
    for curve in curves["evolution, 10 trials"]:
        assert curve["spent"] == 120


def test_what_is_called_the_default_is_what_a_recipe_gets(load: Load) -> None:
    """But that a table cannot tell what there was between the epochs at which it was scored."""
    replays = load("replays")
    default = replays.BY_NAME[replays.DEFAULT]
    paths = list((ROOT / "benchmarks" / "tables").glob("*.json.gz"))
    assert paths
    for path in paths:
        world = replays.world_of(str(path), ("ap:max", "latency_ms:min"))
        told = world.table.provenance
        whole = SearchRecipe.model_validate({"data": {"file": "d"}, "training": told["training"]})
        assert world.pauses == whole.pauses(told["images"]["train"]["images"])
        settings = SearchSettings(rungs=world.recorded(world.pauses))
        assert len(settings.rungs or ()) == 2
        made = make_search(
            settings, world.space, world.objectives, rungs=(*(settings.rungs or ()), world.table.full.epochs),
            trainings=world.trainings, cost=world.table.cost, evaluate=world.table.evaluate, seed=3,
        )  # fmt: skip
        assert default.search(world, 3) == made


def single(table: Table) -> Table:
    """With nothing but full trainings."""
    full = table.full.epochs
    rows = [
        replace(row, trainings={seed: replace(t, figures={full: t.figures[full]}) for seed, t in row.trainings.items()})
        for row in table.rows
    ]
    return replace(table, rows=tuple(rows))


def test_pauses_of_a_table_that_says_less(table: Path, load: Load, tmp_path: Path) -> None:
    replays = load("replays")
    known = read_table(table)
    told = {"training": {"warmup_steps": 10, "batch": 4}, "data": {"train": "a+b"}, "images": {"a+b": {"images": 40}}}

    def pauses(**changes: Any) -> tuple[int, ...]:
        world = replays.World(replace(known, provenance={**told, **changes}), known, OBJECTIVES, 40)
        found: tuple[int, ...] = world.pauses
        return found

    assert pauses() == (2, 5), "a warm-up of one epoch"
    assert pauses(images={}) == pauses(training=None) == (4, 7), "the longest there may be"
    with pytest.raises(StudyError, match="figures after several epochs"):
        replays.World(single(known), known, OBJECTIVES, 40).recorded([4])
    for wrong in ({"training": {"steps": 1}}, {"training": {"batch": -1}}, {"images": {"a+b": {}}}):
        with pytest.raises(StudyError, match="provenance"):
            pauses(**wrong)


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ("nonsense!", "NAME:max or NAME:min"),
        ("ap:max,foo:min", "figures that the table has, got foo"),
        ("ap:max", "accuracy and a cost"),
        ("ap:max,ap:max", "every name once"),
    ],
)
def test_wrong_objectives_are_one_line(
    objectives: str, message: str, table: Path, load: Load, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for script in ("searchers", "describe_table"):
        monkeypatch.setattr("sys.argv", [script, str(table), "--objectives", objectives])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit, match="2"):
            load(script).main()
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_searchers_differ_in_what_they_say(table: Path, load: Load) -> None:
    replays = load("replays")
    world = replays.world_of(str(table), ("ap:max", "latency_ms:min"))
    good, poor = world.start("good"), world.start("poor")
    best = {row.code for row, _ in true_front(world.table, world.objectives)}
    assert len(good) == len(poor) == 3
    assert set(good) <= best
    assert not set(poor) & best
    started = replays.BY_NAME["default, good start"].recipe(world)
    assert started.start == good
    blind = replays.BY_NAME["default, 4 at once, unaware"]
    assert (blind.search(world, 0).strategy.strategy.surrogate.aware, blind.workers) == (False, 4)
    assert replays.BY_NAME["default, half the costs"].recipe(world).survey == world.survey // 2
    distinct = [(s.recipe(world).model_dump_json(), s.workers, s.aware) for s in replays.SEARCHERS]
    assert len(set(distinct)) == len(distinct)


def run_of(replays: ModuleType, *points: tuple[int, float], costs: int = 0, spent: int = 0) -> Any:
    """A search whose answer was worth a share after so many epochs, of a second each."""
    epochs, shares = np.array(points, dtype=float).T
    curve = replays.Curve(epochs.astype(int), shares)
    return replays.Run(curve=curve, seconds=epochs, costs=np.full(len(epochs), costs), spent=spent, took=0.0)


@pytest.fixture
def page(table: Path, load: Load) -> Any:
    """The module, and a comparison of 40 trainings of which the default needs 120 epochs to 95 % where the paper's
    needs 360, and is behind it from 30 trainings on."""
    module, replays = load("searchers_page"), load("replays")
    world = replays.world_of(str(table), ("ap:max", "latency_ms:min"))
    compared = module.Compared(world=world, names=["evolution", "default"], cost_seconds=2.0)
    mine = [run_of(replays, (12, 0.5), (120 + late, 0.95), costs=60) for late in (-12, 0, 12)]
    paper = [run_of(replays, (12, 0.4), (240, 0.9), (360, 0.97), costs=30) for _ in range(3)]
    compared.found |= {"default": replays.Result(mine), "evolution": replays.Result(paper)}
    for budget in (20, 30, 60):
        compared.found[compared.at(budget)] = replays.Result(mine)
    for name, spent in (("default", 100), ("evolution", 480)):
        for trials in (20, 40):
            compared.found[f"{name}, {trials} trials"] = replays.Result([run_of(replays, (12, 0.5), spent=spent)])
    for name, end in (("", 1.0), (", pruning", 0.99), (", pruning 0.01", 1.0)):
        runs = [run_of(replays, (600, end - 0.01 * n)) for n in range(3)]
        compared.found[f"all, random order{name}"] = replays.Result(runs)
    return SimpleNamespace(module=module, compared=compared)


def test_verdicts_say_what_was_seen(page: Any) -> None:
    text = "\n".join(page.module.verdicts(page.compared))
    assert "- against *evolution*, medians at 21 budgets from 20 full trainings on: behind at 11 (30 to 40" in text
    assert "by 2.0 at most" in text
    assert "- 90.0 % in 120 epochs against 240 of *evolution*: 0.50 of them (0.45 to 0.55)" in text
    assert "- 95.0 % in 120 epochs against 360 of *evolution*: 0.33 of them (0.30 to 0.37)" in text
    assert "- 99.0 % in more than 480 epochs against more than 720 of *evolution*\n" in text
    # (120 + 2 * 60) / (360 + 2 * 30) seconds
    assert "- 95.0 % in 4 minutes, costs included, against 7 of *evolution*: 0.57 of them (0.54 to 0.60)" in text
    budgets = "\n".join(page.module.budgets_section(page.compared))
    assert "| 20 | 95.0 (95.0 to 95.0) | +5.0 (+5.0 to +5.0) |" in budgets
    assert "| 60 | 95.0 (95.0 to 95.0) | -2.0 (-2.0 to -2.0) |" in budgets
    trials = "\n".join(page.module.trials_section(page.compared))
    assert "| 40 | default | 50.0 (50.0 to 50.0) | 100 (100 to 100) |" in trials


def test_what_pruning_costs_is_what_is_missing_with_it(page: Any) -> None:
    text = "\n".join(page.module.lost_by_pruning(page.compared))
    assert "- without pruning: 99.0 % of the hypervolume in the median" in text
    assert "because a front is chosen by single trainings" in text
    assert (
        "- all, random order, pruning: it costs 1.0 (1.0 to 1.0) % of the hypervolume in the median, 1.0 at most"
        in text
    )
    assert "- all, random order, pruning 0.01: it costs 0.0 (0.0 to 0.0) %" in text
    everything = 12 * page.compared.world.space.size()
    assert f"saves {100 * (1 - 600 / everything):.1f} % of the epochs" in text


def test_changes_are_compared_seed_by_seed(page: Any) -> None:
    """Three searches with one change beside the first three of five."""
    replays = sys.modules["replays"]
    page.compared.names = ["default", "default, no pruning", "default, no pruning, too", "evolution"]
    for name, shares in (
        ("default", (0.5, 0.7, 0.9, 0.1, 0.1)),
        ("default, no pruning", (0.6, 0.7, 0.8)),
        ("default, no pruning, too", (0.6, 0.8, 0.8)),
    ):
        page.compared.found[name] = replays.Result([run_of(replays, (12, share)) for share in shares])
    lines = page.module.parts_section(page.compared)
    assert "| default, no pruning | default | 3 | +0.0 (-10.0 to +10.0) |" in " ".join(lines)
    assert "| default, no pruning, too | default, no pruning | 3 | +0.0 (+0.0 to +10.0) |" in " ".join(lines)
    assert not any(line.startswith("| evolution") for line in lines)


def test_bands_are_those_of_medians(load: Load) -> None:
    module = load("searchers_page")
    values = np.random.default_rng(0).standard_normal(101)
    middle, low, high = module.median_band(values)
    assert (middle, low < middle < high) == (np.median(values), True)
    # Order statistics bound a median's 95 % confidence by binomial ranks: the 41st and the 61st of 101.
    assert np.sort(values)[[40, 60]] == pytest.approx([low, high], abs=0.1)
    assert module.until(np.array([1.0, np.inf, np.inf]), 480) == "> 480 (1 to > 480)"
    assert module.ratio_band(np.array([1.0]), np.array([np.inf]))[0] == 0
    assert np.isnan(module.ratio_band(np.array([np.inf]), np.array([np.inf]))[0])
    assert module.ratio_band(np.array([3.0]), np.array([4.0])) == (0.75, 0.75, 0.75)
    assert module.difference_band(np.array([3.0]), np.array([4.0])) == (-1, -1, -1)
