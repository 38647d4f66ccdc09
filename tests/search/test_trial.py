from __future__ import annotations

import json

from detsearch.search.trial import TrialState, proposal_rng, trial_seed
from detsearch.types import Metrics
from tests.search.toy import FIDELITY, toy, trial


def test_values_join_metrics_and_cost_and_cost_wins() -> None:
    one = trial(0, toy(1, 2), metrics=Metrics(values={"ap": 0.5, "macs": 1.0, "loss": 2.0}, fidelity=FIDELITY))
    assert one.cost is not None
    assert one.values() == {"ap": 0.5, "loss": 2.0, **one.cost.values()}
    assert trial(0, toy(1, 2), TrialState.FAILED, cost=None).values() == {}


def test_final_states() -> None:
    assert {state for state in TrialState if state.final} == {"complete", "costed", "pruned", "failed"}


def test_json_is_plain() -> None:
    raw = json.loads(json.dumps(trial(3, toy(1, 2), parents=(0, 1)).to_json()))
    assert raw["code"] == "1-2"
    assert raw["parents"] == [0, 1]
    assert raw["state"] == "complete"
    odd = Metrics(values={"ap": 0.5, "ap_small": float("nan")}, fidelity=FIDELITY)
    strict = json.dumps(trial(0, toy(0, 0), metrics=odd).to_json(), allow_nan=False)
    assert json.loads(strict)["metrics"]["values"] == {"ap": 0.5, "ap_small": None}


def test_seeds_depend_on_study_and_number_only() -> None:
    assert trial_seed(1, 2) == trial_seed(1, 2)
    assert len({trial_seed(study, number) for study in range(5) for number in range(50)}) == 250
    assert proposal_rng(1, 2).random() == proposal_rng(1, 2).random() != proposal_rng(2, 1).random()
