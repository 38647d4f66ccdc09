from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detsearch.cli.main import MENDABLE, OK, run
from detsearch.errors import RecipeError
from detsearch.runs.recipe import override
from detsearch.runs.settings import StagesRecipe
from detsearch.runs.stages import first_stage, second_stage
from detsearch.search.ledger import read_study
from detsearch.search.trial import TrialState

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
    inside = {"base": [4, 6], "width": [8], "depth": 8, "spread": [0.2, 5]}
    raw = {"structure": one, "modules": {"space": {"modules": inside}, "search": {"initial": 1}}, "count": 1}
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
    path.write_text("structure: {}\n")
    assert run(["search", "all", "--recipe", str(path), "--out", str(tmp_path / "none")]) == MENDABLE
    assert "detsearch:" in capsys.readouterr().err
