from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detsearch.arch.code import parse_detector
from detsearch.arch.spaces.modular import ModularSpace
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spaces.structures import StructuresSpace
from detsearch.errors import UserError
from detsearch.runs import candidate
from detsearch.runs.candidate import TrainedCandidates
from detsearch.runs.recipe import load_recipe
from detsearch.runs.search import search_structure
from detsearch.runs.settings import SearchRecipe, SearchSettings
from detsearch.runs.strategies import make_strategy
from detsearch.search.ledger import read_study
from detsearch.search.objective import Objective
from detsearch.search.trial import GIVEN, Trial, TrialState, proposal_rng
from detsearch.types import CostMetrics, Fidelity, Latency, Metrics

STRUCTURE = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/retinanet(depth=1)@64x64"
SPACE: dict[str, Any] = {"structure": STRUCTURE, "base": [4, 6], "width": [8, 16], "depth": 12, "spread": [0.25, 4]}


@pytest.fixture
def modular_file(search_file: Path) -> Path:
    """The recipe of a search inside the modules of one structure."""
    raw = yaml.safe_load(search_file.read_text())
    raw["space"] = {"modules": SPACE}
    path = search_file.with_name("modular.yaml")
    path.write_text(yaml.safe_dump(raw))
    return path


def test_a_search_inside_the_modules_of_a_structure(tmp_path: Path, modular_file: Path) -> None:
    recipe = load_recipe(SearchRecipe, modular_file, ["training.epochs=1", "budget.trials=2", "execution.workers=1"])
    assert recipe.objectives == ["ap:max", "macs:min"]
    sizes: list[int] = []
    finished = search_structure(recipe, tmp_path / "study", on_start=sizes.append)
    space = ModularSpace.from_section(SPACE)
    assert sizes == [finished.space] == [space.size()]
    study = read_study(tmp_path / "study")
    trained = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert len(trained) == 2
    for trial in trained:
        assert space.contains(trial.spec)
        assert {"macs", "backbone_macs", "memory_access", "params", "latency_ms"} <= set(trial.values())
    again = load_recipe(SearchRecipe, tmp_path / "study" / "recipe.yaml")
    assert again.space == space.to_choices()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["search.strategy=all"], "at most 200000 detectors for strategy all"),
        (["search.strategy=nsga2"], "at most 200000 detectors for strategy nsga2"),
        ([f"search.start=['{STRUCTURE}']"], "with its code and width the space has basicblock_4_1-2-2-2/"),
        (["search.start=['basicblock_4_1-2-2-2-1/fpn/retinanet@64x64']"], "four stages joined by '-', got 5"),
        (["search.start=['basicblock_4_1--2-2/fpn/retinanet@64x64']"], "stage 3 of a block code"),
        (["search.start=['otherblock_4_1-2-2-2/fpn/retinanet@64x64']"], "expected basicblock or bottleneck"),
        (
            ["search.start=['basicblock_4_1-2-2-1/fpn(levels=4-5,width=8)/retinanet(depth=1)/gn_ws@64x64']"],
            "its width doubles 2 times, not 3",
        ),
        (
            ["search.start=['basicblock_4_1111111111-2-2-2/fpn(levels=4-5,width=8)/retinanet(depth=1)/gn_ws@64x64']"],
            "13 blocks are more than 12",
        ),
        (["space.modules.structure=timm(model=swin_tiny_patch4_window7_224)/rpn/2fc@64x64"], "have a code"),
        (["weights=imagenet"], "imagenet weights"),
        (["training.frozen_stages=9"], "stages"),
        (["training.frozen_stages=1"], "frozen_stages: expected 0 where training begins with weights: none, got 1"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    tmp_path: Path, modular_file: Path, settings: list[str], message: str
) -> None:
    changes = ["space.modules.depth=60", *settings] if "strategy" in settings[0] else settings
    with pytest.raises(UserError) as caught:
        search_structure(load_recipe(SearchRecipe, modular_file, changes), tmp_path / "study")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "study" / "trials").exists()


@pytest.mark.parametrize(
    ("settings", "objectives"),
    [
        ([], ["ap:max", "macs:min"]),
        (["objectives=[ap, latency_ms]"], ["ap", "latency_ms"]),
        (["objectives=[ap, backbone_macs, memory_access]"], ["ap", "backbone_macs", "memory_access"]),
        (["space={}"], ["ap:max", "latency_ms:min"]),
    ],
)
def test_macs_of_the_whole_detector_are_compared_unless_others_are_named(
    modular_file: Path, settings: list[str], objectives: list[str]
) -> None:
    assert load_recipe(SearchRecipe, modular_file, settings).objectives == objectives


def test_latency_of_what_is_out_by_its_count_is_not_measured(
    modular_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(runtime: object, size: object, **how: object) -> Latency | None:
        measured.append(str(size))
        return None

    monkeypatch.setattr(candidate, "measure", measure)
    spec = parse_detector(STRUCTURE)
    for limit, times in (("macs<=10", 0), ("params<=10", 0), ("backbone_macs<=10", 0), ("latency_ms<=1", 1)):
        recipe = load_recipe(SearchRecipe, modular_file, [f"limits=[{limit}, macs<=1e12]"])
        measured.clear()
        assert TrainedCandidates(recipe, 3, "cpu").cost(spec).macs > 10
        assert len(measured) == times


@pytest.mark.parametrize("strategy", ["evolution", "surrogate", "random", "nsga2", "tpe", "all"])
def test_a_baseline_with_another_stem_leads_inside(strategy: Any) -> None:
    """It is no member of the space; all strategies bear it, and evolution begins with it."""
    classical = STRUCTURE.replace("/fpn", "(stem=7x7)/fpn")
    space = read_space({"modules": {**{k: v for k, v in SPACE.items() if k != "structure"}, "depth": 6,
                                    "structures": [classical]}})  # fmt: skip
    assert isinstance(space, StructuresSpace)
    (baseline,) = space.baselines
    assert not space.contains(baseline)
    objectives = (Objective("ap", True), Objective("macs", False))
    made = make_strategy(SearchSettings(strategy=strategy, initial=1), space, objectives, rungs=(2,), trainings=4)
    first = made.propose([], [], proposal_rng(0, 0))
    assert first is not None
    assert (first.spec, first.origin) == (baseline, GIVEN)
    cost, metrics = CostMetrics(params=1, macs=5, memory_access=1), Metrics(values={"ap": 0.5}, fidelity=Fidelity(2))
    trial = Trial(number=0, code="", spec=baseline, state=TrialState.COMPLETE, fidelity=Fidelity(2), seed=0,
                  origin=GIVEN, cost=cost, metrics=metrics)  # fmt: skip
    second = made.propose([trial], [], proposal_rng(0, 1))
    assert second is not None
    assert space.contains(second.spec)
    assert second.parents == ((0,) if strategy == "evolution" else ())
