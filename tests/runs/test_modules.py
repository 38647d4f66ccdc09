"""Stage two on a study of stage one."""

from __future__ import annotations

from pathlib import Path

import pytest

from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.spaces.modular import ModularSpace
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spaces.structures import StructuresSpace
from detsearch.cli.main import MENDABLE, OK, run
from detsearch.errors import RecipeError, StudyError
from detsearch.runs.modules import modular_recipe
from detsearch.runs.recipe import load_recipe, write_recipe
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
TIMM = "timm(model=swin_tiny_patch4_window7_224)/fpn(width=8)/retinanet@128x128"
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
    told: list[str] = []
    recipe = modular_recipe(study, count=3, settings=INSIDE, tell=told.append)
    assert len(told) <= 1, "of the one with the same inside, if its turn came"
    best = {format_detector(t.spec) for t in front(read_study(study).trials, read_study(study).objectives)}
    found = chosen(recipe)
    assert len(found) == 3, "of four on the front, two have the same inside"
    assert set(found) <= best
    assert len({structure(NECKS[0]), structure(NECKS[2])} & set(found)) == 1
    assert chosen(modular_recipe(study, count=1, settings=INSIDE)) == found[:1]
    told.clear()
    assert chosen(modular_recipe(study, count=9, settings=INSIDE, tell=told.append)) == found
    assert len(told) == 2
    assert "left out: its inside is that of basicblock_4" in told[0]
    assert told[1] == "3 structures in place of 9: the front has no more that differ inside"
    assert recipe.objectives == ["ap:max", "macs:min"]
    assert recipe.weights == "none"
    first = load_recipe(SearchRecipe, study / "recipe.yaml")
    assert (recipe.data, recipe.training, recipe.seed) == (first.data, first.training, first.seed)


def test_from_scratch_nothing_is_frozen(tmp_path: Path, search_file: Path) -> None:
    """As stage one has it with weights of ImageNet: a frozen stem would stay as it was drawn."""
    frozen = ["weights=imagenet", "training.frozen_stages=2", "training.frozen_bn=true", "training.lr=0.03"]
    first = load_recipe(SearchRecipe, search_file, frozen)
    study = write_study(tmp_path / "one", first, [(structure(NECKS[0]), 0.3, 5.0)])
    recipe = modular_recipe(study, settings=INSIDE)
    assert recipe.weights == "none"
    assert recipe.training == first.training.model_copy(update={"frozen_stages": 0, "frozen_bn": False})
    own = modular_recipe(study, settings=[*INSIDE, "training.frozen_stages=1"])
    assert (own.training.frozen_stages, own.training.frozen_bn) == (1, False)
    with pytest.raises(
        RecipeError, match=r"training\.frozen_stages: expected 0 where training begins with weights: none"
    ):
        search_structure(own, tmp_path / "two")
    assert not (tmp_path / "two").exists()


def front_of(tmp_path: Path, search_file: Path, *codes: str) -> Path:
    """A study with all of these on its front."""
    rows = [(code, 0.1 * number, 5.0 * number) for number, code in enumerate(codes, 1)]
    return write_study(tmp_path / "one", load_recipe(SearchRecipe, search_file), rows)


@pytest.mark.parametrize(
    ("texts", "base"),
    [
        ((structure(NECKS[0]), structure(NECKS[0]).replace("/gn@", "@")), "[4,6]"),
        (
            (
                structure(NECKS[0], backbone="resnet18"),
                structure(NECKS[0], backbone="basicblock_64_11-21-21-21"),
                structure(NECKS[0], backbone="resnet34"),
            ),
            "[48,64]",
        ),
    ],
    ids=["norm", "stem"],
)
def test_what_the_space_replaces_makes_no_two_structures(
    tmp_path: Path, search_file: Path, texts: tuple[str, ...], base: str
) -> None:
    study = front_of(tmp_path, search_file, *texts, structure(NECKS[1], backbone=texts[0].split("/")[0]))
    recipe = modular_recipe(study, settings=[*INSIDE, f"space.modules.base={base}"])
    found = chosen(recipe)
    assert len(found) == 2
    assert len(set(texts) & set(found)) == 1


def test_widths_are_those_of_structures_with_a_neck(tmp_path: Path, search_file: Path) -> None:
    bare = "basicblock_4_1-2-2-2/rpn(anchor_scale=2)/2fc(width=16)/gn@64x64"
    recipe = modular_recipe(front_of(tmp_path, search_file, bare, structure(NECKS[0])), settings=INSIDE)
    assert set(chosen(recipe)) == {bare, structure(NECKS[0])}
    space = read_space(recipe.space)
    assert isinstance(space, StructuresSpace)
    assert {format_detector(part.structure): part.widths for part in space.parts} == {
        bare: (),
        structure(NECKS[0]): (8,),
    }
    assert read_space(space.to_choices()) == space, "whichever is the first"
    with pytest.raises(RecipeError, match="none, for a structure whose neck has no width"):
        ModularSpace.from_section({"structure": bare, "base": [4], "width": [8]})


def test_limits_hold_inside_too(study: Path) -> None:
    """A user's ceiling is not the first stage's alone."""
    stored = study / "recipe.yaml"
    load = load_recipe(SearchRecipe, stored, ["limits=[latency_ms<=30, params<=1e6]"])
    write_recipe(load, stored)
    assert modular_recipe(study, settings=INSIDE).limits == ["latency_ms<=30", "params<=1e6"]
    assert modular_recipe(study, settings=[*INSIDE, "limits=[macs<=1e9]"]).limits == ["macs<=1e9"]
    assert modular_recipe(study, settings=[*INSIDE, "limits=[]"]).limits == []


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
        spec = parse_detector(TIMM)
        trial = ledger.add(Proposal(spec=spec, origin="random"), fidelity=Fidelity(2), seed=0)
        ledger.record_cost(trial.number, CostMetrics(params=1, macs=1, memory_access=1, latency=latency(40.0)))
        ledger.start(trial.number)
        done = Metrics(values={"ap": 0.9}, fidelity=Fidelity(2))
        ledger.finish(trial.number, TrialState.COMPLETE, metrics=done)
    told: list[str] = []
    for count, others in [(1, 0), (None, 1), (6, 2)]:
        found = chosen(modular_recipe(study, count=count, settings=INSIDE, tell=told.append))
        assert TIMM not in found
        (why,) = (text for text in told if "swin_tiny" in text)
        assert why.startswith("trial 6 of the front is left out")
        assert len(told) == 1 + others, "of the same inside, and of a front that has no six"
        told.clear()
    assert len(chosen(modular_recipe(study, trials=[0, 1], settings=INSIDE))) == 2
    with pytest.raises(StudyError, match=r"trial 6.*have a code.*swin_tiny.*--trial"):
        modular_recipe(study, trials=[0, 6])


def test_a_front_without_any_code_is_refused(tmp_path: Path, search_file: Path) -> None:
    with pytest.raises(StudyError, match=r"trial 0.*have a code.*swin_tiny"):
        modular_recipe(front_of(tmp_path, search_file, TIMM))


def test_a_structure_that_the_bases_do_not_fit_is_left_out(tmp_path: Path, search_file: Path) -> None:
    wide = structure(NECKS[1], backbone="resnet18")
    study = front_of(tmp_path, search_file, wide, structure(NECKS[0]))
    told: list[str] = []
    narrow = [*INSIDE, "space.modules.spread=[0.9,1.1]"]
    assert chosen(modular_recipe(study, settings=narrow, tell=told.append)) == [structure(NECKS[0])]
    assert len(told) == 1
    assert "trial 0 of the front is left out: space.modules.spread: expected a range that meets" in told[0]
    with pytest.raises(RecipeError, match=r"space\.modules\.spread"):
        modular_recipe(study, settings=[*INSIDE, "space.modules.base=[1024]"])
    with pytest.raises(RecipeError, match="did you mean 'doublings'"):
        modular_recipe(study, settings=[*INSIDE, "space.modules.doubling=[3]"])


def test_a_search_that_has_begun_keeps_its_structures(tmp_path: Path, study: Path) -> None:
    """Whatever the front of stage one is meanwhile."""
    begun = modular_recipe(study, count=2, settings=INSIDE)
    out = tmp_path / "two"
    assert modular_recipe(study, count=2, settings=INSIDE, folder=out) == begun, "nothing is there yet"
    with Ledger(
        out, {"kind": "structure", "space": read_space(begun.space).to_choices()}, read_study(study).objectives
    ):
        pass
    better = front_of(tmp_path / "later", study / "recipe.yaml", structure(NECKS[3], 96))
    assert chosen(modular_recipe(better, settings=INSIDE)) == [structure(NECKS[3], 96)]
    told: list[str] = []
    for count in (None, 2, 6):
        again = modular_recipe(better, count=count, settings=INSIDE, folder=out, tell=told.append)
        assert chosen(again) == chosen(begun)
    assert len(told) == 3
    assert all(text in told[0] for text in chosen(begun))
    with pytest.raises(StudyError, match="a search inside of at most 1 structures, got 2"):
        modular_recipe(better, count=1, settings=INSIDE, folder=out)
    assert chosen(modular_recipe(better, trials=[0], settings=INSIDE, folder=out)) == [structure(NECKS[3], 96)]
    with pytest.raises(StudyError, match="a search inside of structures, or a new folder"):
        modular_recipe(better, settings=INSIDE, folder=study)


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
    assert run([*command, "--executor", "cluster"]) == MENDABLE
    assert "execution.executor" in capsys.readouterr().err
