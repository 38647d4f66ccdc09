"""Two stages beside one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from detsearch.search.trial import TrialState
from detsearch.types import Fidelity
from tests.benchmarks.scripts import Load
from tests.search.toy import toy, trial


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
