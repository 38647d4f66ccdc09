from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spaces.structures import StructuresSpace
from detsearch.build import build
from detsearch.errors import RecipeError, StudyError
from detsearch.report.study import write_report
from detsearch.runs.candidate import TrainedCandidates
from detsearch.runs.heritage import RECORD, begin_with, read_heritage
from detsearch.runs.recipe import load_recipe
from detsearch.runs.search import search_structure
from detsearch.runs.settings import SearchRecipe, SearchSettings
from detsearch.runs.strategies import make_strategy
from detsearch.runs.table import collect_table
from detsearch.search.evolution import Evolution
from detsearch.search.inheritance import Heritage, Inheriting, heritage_of
from detsearch.search.ledger import read_study
from detsearch.search.objective import Objective
from detsearch.search.trial import Trial, TrialContext, TrialState, proposal_rng, waiting
from detsearch.training.checkpoint import read_checkpoint
from detsearch.types import CostMetrics, Fidelity, Metrics

PARENT = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/retinanet(depth=1)/gn@64x64"
CHILD = "basicblock_4_1-2-2-21/fpn(levels=4-5,width=8)/retinanet(depth=1)/gn@64x64"
OBJECTIVES = (Objective("ap", True), Objective("macs", False))


def trained(search_file: Path, code: str, folder: Path, *settings: str, until: int = 2, **context: Any) -> Metrics:
    """A candidate of the recipe, trained in a folder."""
    recipe = load_recipe(SearchRecipe, search_file, ["device=cpu", *settings])
    place = TrialContext(folder=folder, **context)
    return TrainedCandidates(recipe, 3, "cpu").evaluate(parse_detector(code), Fidelity(until), 0, place)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(folder / "checkpoint.pt").weights)


@pytest.fixture
def parent(tmp_path: Path, search_file: Path) -> Path:
    """The folder of a trained parent."""
    trained(search_file, PARENT, tmp_path / "0003")
    return tmp_path / "0003"


def test_a_training_begins_with_what_fits(tmp_path: Path, search_file: Path, parent: Path) -> None:
    said: list[tuple[int, int, str]] = []
    folder = tmp_path / "child"
    found = trained(search_file, CHILD, folder, inherits=parent, report=lambda *what: said.append(what))
    heritage = Heritage.model_validate(found.provenance["inherited"])
    assert heritage == read_heritage(folder)
    assert heritage.epochs == 2
    assert 0 < heritage.tensors < heritage.of, "all but the block that the parent has not"
    assert 0 < heritage.share < 1
    assert said[0] == (0, 2, f"inherited from trial 0003: {heritage}")
    # The same once more, and another start is another training.
    trained(search_file, CHILD, tmp_path / "again", inherits=parent)
    mine, again = weights(folder), weights(tmp_path / "again")
    assert all(torch.equal(mine[name], again[name]) for name in mine)
    assert "inherited" not in trained(search_file, CHILD, tmp_path / "scratch").provenance
    assert not (tmp_path / "scratch" / RECORD).exists()
    scratch = weights(tmp_path / "scratch")
    assert mine.keys() == scratch.keys()
    assert not all(torch.equal(mine[name], scratch[name]) for name in mine)
    # An heir of the heir counts all epochs.
    trained(search_file, PARENT, tmp_path / "grandchild", "training.epochs=1", until=1, inherits=folder)
    last = read_heritage(tmp_path / "grandchild")
    assert last is not None
    assert (last.epochs, last.share) == (4, 1.0)


def test_a_training_that_goes_on_keeps_its_own_weights(tmp_path: Path, search_file: Path, parent: Path) -> None:
    """On a rung and on the next it is one training, whatever has become of the parent meanwhile."""
    first, second = tmp_path / "first", tmp_path / "second"
    trained(search_file, CHILD, first, until=1, inherits=parent)
    whole = tmp_path / "whole"
    trained(search_file, CHILD, whole, inherits=parent)
    (parent / "checkpoint.pt").unlink()
    found = trained(search_file, CHILD, second, start=first, inherits=parent)
    assert found.provenance["inherited"] == json.loads((first / RECORD).read_text())
    assert read_heritage(second) == read_heritage(whole)
    mine, other = weights(second), weights(whole)
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    again = trained(search_file, CHILD, first, inherits=parent)
    assert again.provenance["inherited"] == found.provenance["inherited"]


@pytest.mark.parametrize("kind", ["missing", "torn"])
def test_without_the_parents_checkpoint_it_begins_from_scratch(
    tmp_path: Path, search_file: Path, parent: Path, kind: str
) -> None:
    path = parent / "checkpoint.pt"
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1000])
    said: list[str] = []
    found = trained(search_file, CHILD, tmp_path / "child", inherits=parent, report=lambda *what: said.append(what[2]))
    heritage = Heritage.model_validate(found.provenance["inherited"])
    assert (heritage.tensors, heritage.epochs) == (0, 0)
    assert str(path) in str(heritage.missing)
    assert said[0].startswith("inherited from trial 0003: nothing, so from scratch: ")
    trained(search_file, CHILD, tmp_path / "scratch")
    mine, scratch = weights(tmp_path / "child"), weights(tmp_path / "scratch")
    assert all(torch.equal(mine[name], scratch[name]) for name in mine)


def test_weights_of_a_parent_lie_over_those_of_the_recipe(tmp_path: Path, search_file: Path, parent: Path) -> None:
    """A whole checkpoint as `weights`: of the same network all comes from the parent, at any input."""
    trained(search_file, PARENT, tmp_path / "other", "seed=5", "training.lr=0.001")
    settings = [f"weights={tmp_path / 'other' / 'checkpoint.pt'}", "training.lr=1.0e-12"]
    larger = PARENT.replace("64x64", "96x96")
    trained(search_file, larger, tmp_path / "heir", *settings, until=1, inherits=parent)
    trained(search_file, larger, tmp_path / "plain", *settings, until=1)

    def near(folder: Path, other: Path) -> bool:
        mine, others = weights(folder), weights(other)
        return all(torch.allclose(mine[name], others[name], atol=1e-6) for name in mine)

    assert near(tmp_path / "heir", parent)
    assert near(tmp_path / "plain", tmp_path / "other")
    assert not near(parent, tmp_path / "other")


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", '{"tensors": -1}', '{"epochs": 1e999}', "\x00"])
def test_a_damaged_record_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    assert read_heritage(tmp_path) is None
    assert read_heritage(tmp_path / "nowhere") is None


def test_nothing_is_touched_where_nothing_is_inherited(tmp_path: Path) -> None:
    detector = build(parse_detector(PARENT).network, 3)
    begin_with(detector, TrialContext(folder=tmp_path), 3)
    assert list(tmp_path.iterdir()) == []


def test_a_search_says_whose_weights_it_inherited(tmp_path: Path, search_file: Path) -> None:
    out = tmp_path / "study"
    settings = ["device=cpu", "data.test=null", "search.inherit=true", "execution.workers=1", "training.epochs=1"]
    search_structure(load_recipe(SearchRecipe, search_file, settings), out)
    (out / "trials" / "0000" / "checkpoint.pt").unlink()
    (out / "trials" / "0001" / "checkpoint.pt").unlink()
    (out / "trials" / "0002" / "checkpoint.pt").unlink()
    search_structure(load_recipe(SearchRecipe, search_file, [*settings, "budget.trials=4"]), out)
    trials = read_study(out).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4, [trial.reason for trial in trials]
    assert [trial.inherits is None for trial in trials] == [True, True, False, False]
    assert [trial.parents for trial in trials[2:]] == [(trial.inherits,) for trial in trials[2:]]
    whole, none = heritage_of(trials[2]), heritage_of(trials[3])
    assert whole is not None
    assert none is not None
    assert whole.share > 0
    assert none.missing is not None
    _, markdown = write_report(out)
    text = markdown.read_text().replace("\\", "")
    assert f"mutation of {trials[2].inherits}; inherited from trial {trials[2].inherits}, {whole}" in text
    assert f"inherited from trial {trials[3].inherits}, nothing, so from scratch" in text
    assert "1 trial began with inherited weights" in text
    with pytest.raises(StudyError, match=r"trial 2: expected trainings from scratch, got one that began"):
        collect_table([out], tmp_path / "table.json")


def test_off_proposes_as_before(search_file: Path) -> None:
    space = read_space(load_recipe(SearchRecipe, search_file).space)
    plain = make_strategy(SearchSettings(strategy="evolution"), space, OBJECTIVES, rungs=(2,), trainings=4)
    assert plain == Evolution(space=space, objectives=OBJECTIVES, initial=8)
    inheriting = SearchSettings(strategy="evolution", inherit=True)
    assert make_strategy(inheriting, space, OBJECTIVES, rungs=(2,), trainings=4) == Inheriting(strategy=plain)


@pytest.mark.parametrize("strategy", ["random", "nsga2", "tpe", "all"])
def test_strategies_without_parents_refuse_to_inherit(search_file: Path, strategy: str) -> None:
    with pytest.raises(
        RecipeError, match=f"search: expected strategy evolution or surrogate .* not {strategy}"
    ) as caught:
        load_recipe(SearchRecipe, search_file, ["search.inherit=true", f"search.strategy={strategy}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strategy", ["evolution", "surrogate"])
def test_baselines_of_structures_inherit_from_no_one(strategy: Any) -> None:
    structures = [PARENT.replace("/gn@", "@"), CHILD.replace("depth=1", "depth=2").replace("/gn@", "@")]
    section = {"structures": structures, "base": [4, 6], "width": [8, 16], "depth": 12, "spread": [0.1, 10]}
    space = read_space({"modules": section})
    assert isinstance(space, StructuresSpace)
    found = make_strategy(
        SearchSettings(strategy=strategy, inherit=True, initial=2, survey=0), space, OBJECTIVES, rungs=(2,), trainings=4
    )
    trials: list[Trial] = []
    for number in range(6):
        proposal = found.propose(trials, [], proposal_rng(0, number))
        assert proposal is not None
        trial = waiting(proposal, number=number, code=format_detector(proposal.spec), fidelity=Fidelity(1), seed=0)
        cost = CostMetrics(params=1, macs=100 + number, memory_access=1)
        metrics = Metrics(values={"ap": number / 100}, fidelity=Fidelity(1))
        trials.append(replace(trial, state=TrialState.COMPLETE, cost=cost, metrics=metrics))
    assert [trial.spec for trial in trials[:2]] == list(space.baselines)
    assert [trial.inherits for trial in trials[:2]] == [None, None]
    assert sum(trial.inherits is not None for trial in trials) >= 2
