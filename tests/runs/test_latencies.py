"""What `study latency` refuses before anything is measured; `test_table` measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detsearch.errors import RecipeError, StudyError
from detsearch.runs import latencies
from detsearch.runs.latencies import measure_again, read_latencies
from detsearch.runs.recipe import load_recipe
from detsearch.runs.search import DATA_SUMMARY
from detsearch.runs.settings import SearchRecipe
from detsearch.types import Latency
from tests.runs.conftest import TINY
from tests.runs.made import latency, write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", load_recipe(SearchRecipe, None, ["data.file=d"]), [(TINY, 0.1, 5.0)])


def test_settings_that_change_nothing_are_refused(study: Path, tmp_path: Path) -> None:
    for setting in ("training.epochs=5", "device=cpu", "latencies.runs=5"):
        with pytest.raises(RecipeError, match=r"--set: expected latency\.FIELD=VALUE"):
            measure_again(study, tmp_path / "latencies.json", settings=["latency.runs=3", setting])
    assert not (tmp_path / "latencies.json").exists()


def test_a_study_that_does_not_say_what_its_splits_hold(study: Path, tmp_path: Path) -> None:
    (study / DATA_SUMMARY).unlink()
    message = rf"{DATA_SUMMARY}: expected a file that can be read, got No such file or directory; repeat the command"
    with pytest.raises(StudyError, match=message):
        measure_again(study, tmp_path / "latencies.json")
    (study / DATA_SUMMARY).write_text("[1]")
    with pytest.raises(StudyError, match=rf"{DATA_SUMMARY}: expected figures by name, .*; delete it"):
        measure_again(study, tmp_path / "latencies.json")


def test_of_several_rounds_the_lowest_steady_one_counts(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter([(5.0, True), (3.0, True), (1.0, False), (4.0, True), (2.0, False), (2.5, True)])
    one = latency(1.0)

    def measured(*_: object) -> Latency:
        median, steady = next(rounds)
        return replace(one, median_ms=median, steady=steady)

    monkeypatch.setattr(latencies, "_measured", measured)
    out = tmp_path / "latencies.json"
    for turns, expected in ((1, 5.0), (3, 3.0), (5, 3.0), (5, 3.0), (6, 2.5)):
        measure_again(study, out, rounds=turns)
        (again,) = read_latencies(out).by_code.values()
        assert (again.median_ms, again.steady) == (expected, True)
    assert next(rounds, None) is None, "each round once, and none again that was gone on with"
    assert list(read_latencies(out).rounds.values()) == [6]
