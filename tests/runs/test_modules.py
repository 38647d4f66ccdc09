"""Stage two on a study of stage one."""

from __future__ import annotations

from pathlib import Path

import pytest

from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spaces.structures import StructuresSpace
from detsearch.cli.main import MENDABLE, OK, run
from detsearch.errors import RecipeError, StudyError
from detsearch.runs.modules import modular_recipe
from detsearch.runs.recipe import load_recipe
from detsearch.runs.search import search_structure
from detsearch.runs.settings import SearchRecipe
from detsearch.search.ledger import Ledger, read_study
from detsearch.search.objective import Objective
from detsearch.search.pareto import front
from detsearch.search.trial import Proposal, TrialState
from detsearch.types import CostMetrics, Fidelity, Metrics
from tests.runs.made import latency, write_study

INSIDE = (
    "space.modules.base=[4,6]",
    "space.modules.width=[8]",
    "space.modules.depth=8",
    "space.modules.spread=[0.2,5]",
)
NECKS = ("levels=4-5,width=8", "levels=3-4-5,width=8", "levels=4-5,width=16", "levels=5,width=8")


def structure(neck: str, size: int = 64, backbone: str = "basicblock_4_1-2-2-2") -> str:
    return f"{backbone}/fpn({neck})/retinanet(depth=1)/gn@{size}x{size}"


@pytest.fixture
def study(tmp_path: Path, search_file: Path) -> Path:
    """A study of stage one whose figures are made up: of six structures four are on the front, and of these two differ
    only in the width of the neck."""
    rows = [
        (structure(NECKS[0]), 0.30, 5.0),
        (structure(NECKS[1]), 0.40, 9.0),
        (structure(NECKS[2]), 0.35, 7.0),  # inside, the same as the first
        (structure(NECKS[0], 96), 0.42, 20.0),
        (structure(NECKS[3]), 0.10, 30.0),
        (structure(NECKS[1], 96), 0.20, 25.0),
    ]
    return write_study(tmp_path / "one", load_recipe(SearchRecipe, search_file), rows)


def chosen(recipe: SearchRecipe) -> list[str]:
    space = read_space(recipe.space)
    assert isinstance(space, StructuresSpace)
    return [format_detector(part.structure) for part in space.parts]


def test_structures_are_spread_along_the_front(study: Path) -> None:
    recipe = modular_recipe(study, count=3, settings=INSIDE)
    best = {format_detector(t.spec) for t in front(read_study(study).trials, read_study(study).objectives)}
    found = chosen(recipe)
    assert len(found) == 3, "of four on the front, two have the same inside"
    assert set(found) <= best
    assert len({structure(NECKS[0]), structure(NECKS[2])} & set(found)) == 1
    assert chosen(modular_recipe(study, count=1, settings=INSIDE)) == found[:1]
    assert recipe.objectives == ["ap:max", "macs:min"]
    assert recipe.weights == "none"
    first = load_recipe(SearchRecipe, study / "recipe.yaml")
    assert (recipe.data, recipe.training, recipe.seed) == (first.data, first.training, first.seed)


def test_structures_can_be_named(study: Path) -> None:
    recipe = modular_recipe(study, trials=[4, 0], settings=[*INSIDE, "seed=5", "objectives=[ap:max,latency_ms:min]"])
    assert chosen(recipe) == [structure(NECKS[3]), structure(NECKS[0])]
    assert recipe.seed == 5
    assert recipe.objectives == ["ap:max", "latency_ms:min"]
    with pytest.raises(RecipeError, match="differ in backbone code or width only"):
        read_space(modular_recipe(study, trials=[0, 2], settings=INSIDE).space)


def test_what_cannot_be_gone_on_from(tmp_path: Path, study: Path) -> None:
    with pytest.raises(StudyError, match="a number from 0 to 5, got 6"):
        modular_recipe(study, trials=[6])
    with pytest.raises(StudyError):
        modular_recipe(tmp_path / "absent")
    with pytest.raises(RecipeError, match="which the study gives"):
        modular_recipe(study, raw={"space": {"modules": {"structures": [structure(NECKS[0])]}}})
    objectives = (Objective("ap", True), Objective("latency_ms", False))
    with Ledger(tmp_path / "none", {"kind": "structure"}, objectives):
        pass
    with pytest.raises(StudyError, match="a complete trial, got none"):
        modular_recipe(tmp_path / "none")


def test_a_backbone_without_a_code_is_told(study: Path) -> None:
    objectives = read_study(study).objectives
    with Ledger(study, dict(read_study(study).identity), objectives) as ledger:
        spec = parse_detector("timm(model=swin_tiny_patch4_window7_224)/fpn(width=8)/retinanet@128x128")
        trial = ledger.add(Proposal(spec=spec, origin="random"), fidelity=Fidelity(2), seed=0)
        ledger.record_cost(trial.number, CostMetrics(params=1, macs=1, memory_access=1, latency=latency(1.0)))
        ledger.start(trial.number)
        done = Metrics(values={"ap": 0.9}, fidelity=Fidelity(2))
        ledger.finish(trial.number, TrialState.COMPLETE, metrics=done)
    with pytest.raises(StudyError, match=r"trial 6.*have a code.*swin_tiny.*--trial"):
        modular_recipe(study)
    assert len(chosen(modular_recipe(study, trials=[0, 1], settings=INSIDE))) == 2


def test_both_searches_go_on_together_from_their_baselines(tmp_path: Path, study: Path) -> None:
    settings = [*INSIDE, "training.epochs=1", "training.batch=4", "search.initial=1", "execution.workers=1"]
    recipe = modular_recipe(study, trials=[0, 1], settings=settings, options={"budget.trials": 6})
    out = tmp_path / "two"
    finished = search_structure(recipe, out)
    assert finished.trained == 6
    trials = read_study(out).trials
    space = read_space(recipe.space)
    assert isinstance(space, StructuresSpace)
    assert [trial.spec for trial in trials[:2]] == list(space.baselines)
    assert all(trial.spec.network.norm == "gn_ws" for trial in trials)
    parts = [space.part_of(trial.spec) for trial in trials if trial.state is TrialState.COMPLETE][2:]
    assert sorted(part for part in parts if part is not None) == [0, 0, 1, 1]


def test_the_command(tmp_path: Path, study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "two"
    sets = [
        part
        for text in (*INSIDE, "training.epochs=1", "training.batch=4", "search.initial=1")
        for part in ("--set", text)
    ]
    command = ["search", "modules", "--from", str(study), "--count", "2", "--out", str(out), "--trials", "4", *sets]
    assert run(command) == OK
    report = (out / "report.md").read_text()
    assert "## Lift over the baselines" in report
    lines = report[report.index("## Lift") :].splitlines()
    assert sum(line.startswith("| `basicblock_4") for line in lines[:8]) == 2
    assert "Lift over the baselines" in (out / "report.html").read_text()
    capsys.readouterr()
    assert run(["search", "modules", "--out", str(tmp_path / "three"), "--data", "synthetic"]) == MENDABLE
    assert "a study, or a recipe with a section space.modules" in capsys.readouterr().err
    assert run(["search", "modules", "--recipe", str(out / "recipe.yaml"), "--out", str(out)]) == OK, "it goes on"
