from __future__ import annotations

from pathlib import Path

import pytest

from detsearch.arch.code import parse_detector
from detsearch.runs import candidate, search
from detsearch.runs.candidate import TrainedCandidates
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import SearchRecipe
from detsearch.search.study import Ending, Search
from detsearch.search.trial import TrialContext
from detsearch.types import Fidelity
from tests.runs.conftest import FINDING, ap_by_split


def _candidates(search_file: Path, *settings: str) -> TrainedCandidates:
    return TrainedCandidates(load_recipe(SearchRecipe, search_file, ["training.epochs=1", *settings]), 3, "cpu")


def test_a_candidate_is_scored_on_the_validation_split(tmp_path: Path, search_file: Path) -> None:
    candidates = _candidates(search_file)
    context = TrialContext(folder=tmp_path / "trial")
    found = candidates.evaluate(parse_detector(FINDING), Fidelity(1), 0, context)
    ap = ap_by_split(context.folder / "checkpoint.pt", candidates.recipe)["val"]
    assert found.values["ap"] == pytest.approx(ap, rel=1e-6)
    assert ap > 0
    assert found.provenance["split"] == "val"


def test_latency_is_measured_as_the_recipe_says(search_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(candidate, "measure", lambda runtime, size, **how: asked.update(how, input=str(size)))
    how = {"warmup": 2, "runs": 7, "seconds": 0.25, "threads": 3}
    _candidates(search_file, *(f"latency.{name}={value}" for name, value in how.items())).cost(parse_detector(FINDING))
    assert asked == {**how, "input": "64x64"}


def test_counting_runs_nothing(search_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = _candidates(search_file, "latency.runs=3", "latency.seconds=0.01")
    measured = candidates.cost(parse_detector(FINDING))
    monkeypatch.setattr(candidate, "measure", lambda *_, **__: pytest.fail("it was measured"))
    counted = candidates.counted(parse_detector(FINDING))
    assert (counted.latency, counted.macs, counted.params) == (None, measured.macs, measured.params)


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ([], False),
        (["objectives=[ap:max,macs:min]"], True),
        (["objectives=[ap:max,macs:min]", "limits=[latency_ms<=30]"], False),
        (["objectives=[ap:max,macs:min]", "limits=[params<=1e6]"], True),
    ],
)
def test_a_survey_counts_where_no_latency_is_asked_for(
    tmp_path: Path, search_file: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], counts: bool
) -> None:
    begun: list[Search] = []

    def run(_book: object, what: Search, *_: object, **__: object) -> Ending:
        begun.append(what)
        return Ending.INTERRUPTED

    monkeypatch.setattr(search, "run_study", run)
    recipe = load_recipe(SearchRecipe, search_file, settings)
    search.search_structure(recipe, tmp_path / "study")
    assert (begun[0].counted is not None) == counts
