from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detsearch.arch.code import parse_detector
from detsearch.cli.main import MENDABLE, OK, run
from detsearch.errors import RecipeError, StudyError
from detsearch.runs import search
from detsearch.runs.recipe import load_recipe, override, put
from detsearch.runs.settings import SearchRecipe, StagesRecipe
from detsearch.runs.stages import check_second_stage, first_stage, second_stage
from detsearch.search.ledger import Ledger, read_study
from detsearch.search.trial import Proposal, TrialState
from detsearch.types import CostMetrics, Metrics
from tests.runs.made import latency, write_study

STRUCTURE = {
    "data": {"file": "synthetic"},
    "space": {
        "backbone": ["basicblock_4_1-2-2-2"],
        "neck": ["fpn(levels=4-5,width=8)"],
        "head": ["retinanet(depth=1)"],
        "input": ["64x64"],
    },
}


@given(st.integers(2, 500), st.floats(0.01, 0.99))
def test_the_stages_share_one_budget(trials: int, share: float) -> None:
    recipe = override(
        StagesRecipe, {"structure": STRUCTURE, "budget": {"trials": trials, "hours": 3.0}, "share": share}, ()
    )
    one = first_stage(recipe).budget
    assert one.trials is not None
    assert 1 <= one.trials < trials
    assert abs(one.trials - trials * share) <= 1
    assert one.hours == pytest.approx(3 * share)


def test_epochs_alone(tmp_path: Path) -> None:
    recipe = override(StagesRecipe, {"structure": STRUCTURE, "budget": {"epochs": 30}, "share": 0.4}, ())
    assert (first_stage(recipe).budget.trials, first_stage(recipe).budget.epochs) == (None, 12)


CODE = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/retinanet(depth=1)@64x64"
INSIDE: dict[str, Any] = {"base": [4, 6], "width": [8], "depth": 8, "spread": [0.2, 5]}


@pytest.fixture
def stages() -> dict[str, Any]:
    """A recipe of both stages."""
    return {"structure": copy.deepcopy(STRUCTURE), "modules": {"space": {"modules": dict(INSIDE)}}}


@pytest.mark.parametrize(
    ("budget", "spent", "rest"),
    [
        ({"trials": 60}, 0.0, (58, None, None)),
        ({"epochs": 60}, 0.0, (None, 56, None)),
        ({"trials": 2, "epochs": 3}, 0.0, (1, 1, None)),
        ({"hours": 10.0}, 1.0, (38, None, 9.0)),
        ({"hours": 10.0}, 4.5, (38, None, 6.0)),  # its last training took longer than its share
    ],
)
def test_what_the_first_stage_leaves_over_is_the_second_s(
    tmp_path: Path, stages: dict[str, Any], budget: dict[str, Any], spent: float, rest: tuple[Any, ...]
) -> None:
    """Of a first stage that ended early, after two trainings of two epochs."""
    recipe = override(StagesRecipe, {**stages, "budget": budget, "share": 0.4}, ())
    one = override(SearchRecipe, {**STRUCTURE, "training": {"epochs": 2}}, ())
    study = write_study(tmp_path / "one", one, [(CODE, 0.3, 9.0), (CODE.replace("64", "96"), 0.4, 12.0)])
    found = second_stage(recipe, study, hours=spent).budget
    assert (found.trials, found.epochs, found.hours) == (rest[0], rest[1], pytest.approx(rest[2]) if rest[2] else None)


WITHOUT_CODE = "timm(model=swin_tiny_patch4_window7_224)"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("modules.space.modules.bases", [4], "modules.space.modules: bases: expected no such key"),
        ("modules.space.modules.doublings", [9], "modules.space.modules.doublings: expected numbers from 0 to 8"),
        ("modules.space.modules.width", [0], "modules.space.modules.width: expected ascending numbers from 1 on"),
        ("modules.space.modules.base", [1024], "modules.space.modules.spread: expected a range that meets"),
        ("modules.space.modules.structures", [CODE], "which the study gives"),
        ("modules.serch", {}, "modules: serch: expected no such key"),
        ("modules.search", {"strategy": "all"}, "modules.space: expected at most 200000 detectors for strategy all"),
        ("modules.search", {"start": ["resnet5"]}, "modules.search.start[0]: expected a preset or a detector's code"),
        ("modules.search", {"start": [CODE.replace("1-2-2-2", "1-2-2-1")]}, "its width doubles 2 times, not 3"),
        ("modules.search", {"start": [CODE.replace("1-2-2-2", f"{40 * '1'}-2-2-2")]}, "43 blocks are more than"),
        ("modules.search", {"start": [CODE.replace("basicblock_4", "bottleneck_4")]}, "its blocks are no basicblock"),
        ("modules.search", {"start": [CODE.replace("basicblock_4", "basicblock_8")]}, "base width 8 is none of 4, 6"),
        ("modules.objectives", ["mask_ap", "macs"], "modules.objective mask_ap"),
        ("modules.weights", "nosuch.pt", "nosuch.pt"),
        ("modules.training", {"frozen_stages": 1}, "training.frozen_stages: expected 0"),
        ("modules.data", {"file": "nosuch.yaml"}, "nosuch.yaml"),
        ("modules.device", "warp", "device"),
        ("structure.space.backbone", [WITHOUT_CODE], "structure.space: expected a backbone that is one whose blocks"),
    ],
)
def test_the_second_stage_is_looked_at_before_the_first(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stages: dict[str, Any],
    field: str,
    value: Any,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "search_structure", lambda *_, **__: pytest.fail("the first stage has begun"))
    if field == "modules.search":
        stages["modules"]["space"]["modules"]["depth"] = 30
    put(stages, field, value)
    Path("all.yaml").write_text(yaml.safe_dump(stages))
    assert run(["search", "all", "--recipe", "all.yaml", "--out", "out"]) == MENDABLE
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.strip().splitlines())) == ("", 1)
    assert message in printed.err
    assert not Path("out").exists()


def test_structures_that_cannot_be_gone_inside_are_named_where_there_are_others(stages: dict[str, Any]) -> None:
    stages["modules"]["space"]["modules"]["spread"] = [0.9, 1.1]
    stages["structure"]["space"] |= {
        "backbone": ["basicblock_4_1-2-2-2", WITHOUT_CODE, "resnet18"],
        "neck": ["fpn(levels=4-5,width=8)", "none"],
        "proposals": ["none", "rpn"],
        "head": ["retinanet(depth=1)", "2fc(width=16)"],
        "input": ["64x64", "96x96"],
    }
    recipe = override(StagesRecipe, stages, ())
    told: list[str] = []
    check_second_stage(recipe, first_stage(recipe), tell=told.append)
    assert told[0] == f"the second stage leaves out structures whose backbone has no block code: {WITHOUT_CODE}"
    assert len(told) > 1
    assert all("structures such as resnet18/" in line and "spread" in line for line in told[1:])
    assert {size for size in ("@64x64", "@96x96") if any(size in line for line in told[1:])} == {"@64x64", "@96x96"}


def test_options_say_how_both_stages_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stages: dict[str, Any]
) -> None:
    stages["modules"] |= {"execution": {"workers": 7, "cpus": 3}, "device": "cuda:5"}
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump(stages))
    begun: list[SearchRecipe] = []

    def begin(recipe: SearchRecipe, folder: Path, **_: object) -> None:
        begun.append(recipe)
        if folder.name == "structure":
            write_study(folder, recipe, [(CODE, 0.3, 9.0)])
        raise StudyError(str(folder), "a pause")

    monkeypatch.setattr(search, "search_structure", begin)
    given = ["--workers", "2", "--executor", "ray", "--address", "10.0.0.1:6379", "--device", "cpu", "--seed", "3"]
    given += ["--trials", "9", "--data", "synthetic-easy"]
    out = tmp_path / "out"
    assert run(["search", "all", "--recipe", str(path), "--out", str(out), *given]) == MENDABLE
    inside = [part for name, value in INSIDE.items() for part in ("--set", f"space.modules.{name}={value}")]
    command = ["search", "modules", "--from", str(out / "structure"), "--out", str(out / "modules"), *given, *inside]
    assert run(command) == MENDABLE
    assert capsys.readouterr().err.count("a pause") == 2
    second = second_stage(load_recipe(StagesRecipe, path), out / "structure", options={"execution.workers": 2})
    assert (second.execution.workers, second.execution.cpus, second.device) == (2, 3, "cuda:5")
    for recipe in begun:
        assert (recipe.execution.workers, recipe.execution.executor) == (2, "ray")
        assert recipe.execution.address == "10.0.0.1:6379"
        assert (recipe.device, recipe.seed, recipe.data.file) == ("cpu", 3, "synthetic-easy")
    assert begun[1].budget.trials == 9


@pytest.mark.parametrize("stage", ["structure", "modules"])
def test_a_stage_has_no_budget_of_its_own(stage: str) -> None:
    raw = {"structure": dict(STRUCTURE), "modules": {}}
    raw[stage]["budget"] = {"trials": 3}
    with pytest.raises(RecipeError, match="both stages share"):
        override(StagesRecipe, raw, ())


def test_both_stages(tmp_path: Path, search_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = yaml.safe_load(search_file.read_text())
    del one["budget"]
    one["training"]["epochs"] = 1
    raw = {"structure": one, "modules": {"space": {"modules": INSIDE}, "search": {"initial": 1}}, "count": 1}
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump({**raw, "budget": {"trials": 5}, "share": 0.4}))
    out = tmp_path / "all"
    assert run(["search", "all", "--recipe", str(path), "--out", str(out)]) == OK
    done = [
        [trial for trial in read_study(out / name).trials if trial.state is TrialState.COMPLETE]
        for name in ("structure", "modules")
    ]
    assert [len(trials) for trials in done] == [2, 3]
    recipe = override(StagesRecipe, yaml.safe_load(path.read_text()), ())
    again = second_stage(recipe, out / "structure")
    assert again.budget.trials == 3
    before = (out / "modules" / "ledger.db").stat().st_size
    assert run(["search", "all", "--recipe", str(path), "--out", str(out)]) == OK
    assert (out / "modules" / "ledger.db").stat().st_size == before, "it was done"
    best = add_trial(out / "structure", CODE.replace("@", "/gn@"), ap=0.99)
    structures = load_recipe(SearchRecipe, out / "modules" / "recipe.yaml").space["modules"]
    capsys.readouterr()
    assert run(["search", "all", "--recipe", str(path), "--out", str(out), "--trials", "7", "--json"]) == OK
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found.keys() == {"modules"}, "the first stage is over"
    assert found["modules"]["trained"] == 4, "three of the first stage, and the rest of seven"
    assert "goes on inside of the structures that it began with" in printed.err
    assert len(read_study(out / "structure").trials) == best + 1
    assert load_recipe(SearchRecipe, out / "modules" / "recipe.yaml").space["modules"] == structures
    path.write_text("structure: {}\n")
    assert run(["search", "all", "--recipe", str(path), "--out", str(tmp_path / "none")]) == MENDABLE
    assert "detsearch:" in capsys.readouterr().err


def add_trial(folder: Path, code: str, ap: float) -> int:
    """The number of a trial that is added to a study, without a training."""
    study = read_study(folder)
    with Ledger(folder, dict(study.identity), study.objectives) as ledger:
        proposal = Proposal(spec=parse_detector(code), origin="random")
        trial = ledger.add(proposal, fidelity=study.trials[0].fidelity, seed=0)
        cost = CostMetrics(params=1, macs=1, memory_access=1, latency=latency(0.01))
        ledger.record_cost(trial.number, cost)
        ledger.start(trial.number)
        metrics = Metrics(values={"ap": ap}, fidelity=trial.fidelity)
        ledger.finish(trial.number, TrialState.COMPLETE, metrics=metrics)
    return trial.number
