"""Benchmarks run: those that rest on recorded tables on a small generated one, those of supernets on small ones."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from detsearch.arch.presets import resolve
from detsearch.errors import StudyError
from detsearch.runs.settings import SearchRecipe, SearchSettings
from detsearch.runs.strategies import make_strategy
from detsearch.search.table import Training
from detsearch.search.tablefacts import true_front
from detsearch.search.tablefile import read_table, write_table
from detsearch.search.trial import TrialState
from detsearch.supernet.cells import Architecture
from detsearch.types import Fidelity
from tests.search.generated import CHOICES, OBJECTIVES, generated
from tests.search.toy import toy, trial

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
    only = ["evolution", "random", "surrogate", "surrogate, halving", "default"]
    done = subprocess.run(
        [sys.executable, "benchmarks/searchers.py", str(table), "--seeds", "2", "--trainings", "20", "--out", str(out),
         "--processes", "1", "--only", *only],
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
        assert f"| {name} |" in text
    assert "- against *random*, medians at 1 budgets" in text
    assert "It pauses after 2 and 4 of 12 epochs; in a recipe it would after 2 and 5, where" in text
    assert "all, random order, pruning: it costs" in text
    assert "--objectives ap:max,latency_ms:min --cost-seconds 2.5 --only evolution random" in text
    for budget in (10, 15, 20, 30):
        assert f"\n| {budget} | " in text
    for trials in (10, 20):
        assert f"\n| {trials} | evolution |" in text
    assert (out / "small.svg").read_text().startswith("<?xml")
    curves = json.loads((out / "small.json").read_text())["curves"]
    assert {len(found) for found in curves.values()} == {2}
    for curve in curves["random"]:
        assert curve["epochs"] == [12 * n for n in range(1, 31)], "baselines go on to the largest budget"
        assert 0 < curve["share"][-1] <= 1
        assert curve["costs"] == list(range(1, 31))
        assert curve["spent"] == 360
    for curve in curves["evolution, 10 trials"]:
        assert curve["spent"] == 120


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


Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """A script of benchmarks/ as a module, which leaves the threads of this process alone."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)

    def loaded(name: str) -> ModuleType:
        for module in (name, "kept", "provenance"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        return importlib.import_module(name)

    return loaded


def test_what_is_called_the_default_is_what_a_recipe_gets(table: Path, load: Load) -> None:
    """But that a table cannot tell what there was between the epochs at which it was scored."""
    replays = load("replays")
    default = replays.BY_NAME[replays.DEFAULT]
    for path in (table, *(ROOT / "benchmarks" / "tables").glob("*.json.gz")):
        world = replays.world_of(str(path), ("ap:max", "latency_ms:min"))
        told = world.table.provenance
        whole = SearchRecipe.model_validate({"data": {"file": "d"}, "training": told.get("training", {})})
        assert world.pauses == whole.pauses(told["images"]["train"]["images"] if "images" in told else 10**6)
        recipe = SearchSettings(rungs=world.recorded(world.pauses))
        rungs = (*(recipe.rungs or ()), world.table.full.epochs)
        made = make_strategy(recipe, world.space, world.objectives, rungs=rungs, trainings=world.trainings)
        assert default.strategy(world) == made
        assert (default.recipe(world).prune, default.recipe(world).slack) == (recipe.prune, recipe.slack)


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
    assert (blind.strategy(world).strategy.surrogate.aware, blind.workers) == (False, 4)
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


def test_a_table_is_described(table: Path) -> None:
    ran("describe_table", str(table))
    text = table.with_name("small.md").read_text()
    world = read_table(table)
    assert f"{len(world.rows)} detectors, 2 seeds, scored after 1, 2, 4, 6, 8, 12 epochs." in text
    matrix = [line for line in text.splitlines() if line.startswith("| 12 |")]
    assert matrix[1].endswith("| 1.000 |"), "with itself"
    assert "The larger detector is less accurate in" in text
    for row, _ in true_front(world, OBJECTIVES):
        assert f"`{row.code}` |" in text


def test_surrogates_are_asked_for_what_was_not_trained(load: Load) -> None:
    surrogates = load("surrogates")
    table = generated(0)
    row = table.rows[0]
    seen = {**row.trainings, 0: Training({4: {"ap": 0.1, "ap50": 0.2, "ar_10": 0.4}})}
    young = surrogates.young(replace(table, rows=(replace(row, trainings=seen), *table.rows[1:])), "ap", 4)
    assert young[:2] == pytest.approx([0.275, table.rows[1].trainings[0].figures[4]["ap"]]), (
        "AP alone where that is all"
    )
    correlation, error, density, _ = surrogates.scored(table, surrogates.ours(table), 16, 48, 0, "ap")
    truth = np.array([np.mean([t.figures[12]["ap"] for t in row.trainings.values()]) for row in table.rows])
    assert correlation > 0.7
    assert error < truth.std()
    # Knowing no more than the distribution of all
    assert density > -0.5 - np.log(truth.std() * np.sqrt(2 * np.pi))


def test_results_are_kept(tmp_path: Path, load: Load) -> None:
    kept = load("kept").kept
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"value": len(made)}

    path = tmp_path / "runs" / "one.json"
    first = kept(path, {"size": (1, 2)}, make)
    assert (first["value"], first["settings"]) == (1, {"size": [1, 2]})
    assert {"date", "device", "commit"} <= set(first)
    assert kept(path, {"size": (1, 2)}, make) == first
    assert made == [1]
    for other in ({"size": (1, 3)}, {"size": (1, 2), "more": None, "seed": 1}, {}):
        with pytest.raises(StudyError, match="choose another --runs folder"):
            kept(path, other, make)
    for damaged in ("", "[]", "{}", "{"):
        path.write_text(damaged)
        with pytest.raises(StudyError, match="another or a damaged file"):
            kept(path, {"size": (1, 2)}, make)


def test_a_small_teacher_is_found(tmp_path: Path) -> None:
    space = ["--nodes", "1", "--operations", "rf5", "--iterations", "60"]
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "found")]
    ran("teachers", "--seeds", "1", "--first", "14", *space, "--fit", "5", "--controls", "decoupled", "stale", *places)
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert row["decoupled"]["before"] == row["stale"]["before"] == 0, "the search does not begin with the answer"
    assert row["decoupled"]["recovered"] == 1.0
    assert row["stale"]["recovered"] < 1
    assert row["decoupled"]["loss"] < row["stale"]["loss"]
    assert 0.4 < row["chance"] < 0.6
    assert len(row["fit"]["random"]) == 10
    assert "| random cells |" in (tmp_path / "found.md").read_text()


def test_teachers_go_on_where_they_were_stopped(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = load("teachers")
    asked: list[int] = []

    def experiment(space: Any, seed: int, options: Any) -> dict[str, Any]:
        asked.append(seed)
        if asked == [0, 1]:
            raise KeyboardInterrupt
        fit = {"derived": 1.0, "teacher": 0.5, "random": [2.0] * 10, "better_than": 9 - seed % 2}
        found = {"decoupled": {"recovered": 0.5 + seed / 8, "before": 0}, "direct": {"recovered": 0.5, "before": 0.5}}
        return {"seed": seed, **found, "chance": 0.25, "fit": fit}

    monkeypatch.setattr(teachers, "experiment", experiment)
    options = ["--seeds", "3", "--first", "0", "--controls", "decoupled", "direct"]
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "found")]
    with pytest.raises(KeyboardInterrupt):
        teachers.main([*options, *places])
    assert not (tmp_path / "found.json").exists()
    for _ in range(2):
        teachers.main([*options, *places])
        assert asked == [0, 1, 1, 2]
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    page = (tmp_path / "found.md").read_text()
    assert "| decoupled | 0.62 ± 0.31 | 0.50 to 0.75 | 0.00 ± 0.00 |" in page  # 4.303 * 0.125 / sqrt(3)
    assert "| direct | 0.50 ± 0.00 | 0.50 to 0.50 | 0.50 ± 0.00 | 0.12 ± 0.31 | 2, 1, 0 |" in page
    assert "than 9 or more in 2 of 3 teachers, 8.7 in the mean" in page
    assert "2.00 times that of the teacher's own cell" in page
    with pytest.raises(SystemExit, match="2"):
        teachers.main([*options, *places, "--iterations", "7"])


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


def test_published_latencies_are_compared(tmp_path: Path, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """On slim stand-ins: every one is divided by the base in the same round; what was published stands beside."""
    published = load("published")
    base, other = "retinanet_slim@64x64", "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/rpn/2fc(width=16)@96x64"
    out = tmp_path / "deep" / "published.json"
    published.main(["--base", base, "--detectors", other, "--rounds", "3", "--threads", "1", "--out", str(out)])
    found = json.loads(out.read_text())
    first, second = found["rows"]
    assert (first["detector"], first["ratio"], first["rounds"]) == (base, 1.0, 3)
    assert second["tensor"] == "96x64"
    assert second["ratio_low"] <= second["ratio"] <= second["ratio_high"]
    assert second["published_ms"] is None
    assert str(tmp_path) not in out.read_text()
    assert {"command", "commit", "date", "device", "seed"} <= found.keys()
    assert f"| {other} | 96x64 |" in capsys.readouterr().out

    ours, e0 = (SimpleNamespace(name=name, spec=resolve(name)) for name in (published.BASE, "E0"))
    row = published.rows([ours, e0], {published.BASE: [0.2, 0.4, 0.2], "E0": [0.1, 0.1, 0.1]}, published.BASE)[1]
    assert row["ratio"] == pytest.approx(0.5)
    assert row["published_ratio"] == pytest.approx(24.5 / 43.6)
    assert set(published.DETECTORS) >= {"E0", "E5", "retinanet_r50_fpn@800x600"}


def test_the_volume_of_an_arm_is_that_on_test_of_what_val_chose(load: Load) -> None:
    two_stage = load("two_stage")
    good, dear, lucky = (
        two_stage.Retrained("good", (0.5,), (0.4,), 10.0),
        two_stage.Retrained("dear", (0.4,), (0.9,), 20.0),  # behind on val: what test says of it does not count
        two_stage.Retrained("lucky", (0.6,), (0.3,), 40.0),
    )
    kept = two_stage.on_front([lucky, good, dear], two_stage.seed_of(0))
    assert kept == [good, lucky]
    # From 40 ms on val takes the lucky one, and so does the arm, though the good one is better on test.
    assert two_stage.volume(kept, two_stage.seed_of(0), 50.0) == pytest.approx((0.4 * 30 + 0.3 * 10) / 50)


def test_what_a_part_trained_does_not_depend_on_the_machine_s_pace(load: Load) -> None:
    """MACs of the toys are 10 + 3 a + 2 b: 10 and 15, three epochs each; the second began with its first epoch."""
    early = trial(1, toy(1, 1), fidelity=Fidelity(1))
    trials = [trial(0, toy(0, 0)), early, trial(2, toy(1, 1), continues=1), trial(3, toy(5, 5), TrialState.FAILED)]
    assert load("two_stage").training_macs(trials) == 3 * 10 + 15 + 2 * 15


@pytest.mark.slow
def test_two_stages_are_compared_with_one(tmp_path: Path, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """On synthetic images: both arms cost alike, a second call does nothing again."""
    two_stage = load("two_stage")
    data = {
        "format": "synthetic",
        "width": 64,
        "height": 64,
        "splits": {name: {"images": 8, "seed": number} for number, name in enumerate(("train", "val", "test"))},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    structure = {
        "data": {"file": str(tmp_path / "data.yaml")},
        "space": {
            "backbone": ["basicblock_4_1-2-2-2", "basicblock_4_1-2-2-21", "basicblock_8_1-2-2-2"],
            "neck": ["fpn(levels=4-5,width=8)", "fpn(levels=3-4-5,width=8)"],
            "proposals": ["rpn(anchor_scale=2,keep=50)"],
            "head": ["2fc(width=16)"],
            "norm": ["gn"],
            "input": ["64x64", "96x96"],
        },
        "training": {"epochs": 1, "batch": 4, "warmup_steps": 1},
        "search": {"initial": 2, "prune": False},
        "latency": {"warmup": 1, "runs": 3, "seconds": 0.01},
        "execution": {"workers": 2},
    }
    inside = {"base": [4, 6, 8], "width": [8], "depth": 8, "spread": [0.2, 5]}
    stages = {"structure": structure, "modules": {"space": {"modules": inside}, "search": {"initial": 1}}, "count": 1}
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump({**stages, "budget": {"trials": 6}, "share": 0.4}))
    places = [
        "--recipe",
        str(tmp_path / "stages.yaml"),
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
    ]
    sizes = ["--count", "2", "--epochs", "1", "--seeds", "2"]
    (tmp_path / "out").mkdir()
    two_stage.main([*places, *sizes])
    found = json.loads((tmp_path / "out" / "two-stage.json").read_text())
    trained = found["trained"]
    assert trained["control"]["seconds"] >= trained["modules"]["seconds"] > 0
    assert (trained["structure"]["candidates"], trained["modules"]["candidates"]) == (2, 4)
    assert found["paid_macs"] == pytest.approx(trained["control"]["gmacs"] / trained["modules"]["gmacs"])
    for stage, words in [("structure", "## Front"), ("modules", "## Lift over the baselines")]:
        assert words in (tmp_path / "out" / stage / "report.md").read_text()
        assert (tmp_path / "out" / stage / "front-by-input.svg").exists()
    assert set(found["hypervolume"]) == {"two stages", "one stage"}
    assert all(len(row["test_ap"]) == 2 for row in found["candidates"])
    assert {arm for row in found["candidates"] for arm in row["arms"]} == {"two stages", "one stage"}
    assert str(tmp_path) not in (tmp_path / "out" / "two-stage.json").read_text()
    assert "| difference |" in capsys.readouterr().out
    assert two_stage.SCOPE in (tmp_path / "out" / "tables.md").read_text()
    two_stage.main([*places, *sizes])
    assert json.loads((tmp_path / "out" / "two-stage.json").read_text()) | {"date": ""} == found | {"date": ""}


def test_loading_is_timed(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images of an epoch, the first epoch left out; two batches an iteration."""
    data, out = tmp_path / "data.yaml", tmp_path / "found.json"
    data.write_text(yaml.safe_dump({"format": "synthetic", "splits": {"train": {"images": 6, "seed": 0}}}))
    clock = iter(range(1000))
    loading = load("loading")
    monkeypatch.setattr(loading, "time", SimpleNamespace(process_time=lambda: float(next(clock))))
    options = ["--size", "64x64", "--batch", "3", "--seconds", "0", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["loading.py", str(data), *options])
    loading.main()
    found = json.loads(out.read_text())
    assert (found["images"], found["epochs"]) == (6, 3)
    assert found["ms"]["median"] == pytest.approx(1000 / 6)
    assert found["search_minutes"] == pytest.approx(12_500 * 2 * 3 / 6 / 60)


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
