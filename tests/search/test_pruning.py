from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detsearch.search.objective import Objective
from detsearch.search.pareto import matrix, non_dominated
from detsearch.search.pruning import prune_reason
from detsearch.search.trial import Trial, TrialState
from detsearch.types import CostMetrics, Fidelity, Latency, Metrics
from tests.search.toy import FIDELITY, OBJECTIVES, leq, toy, trial

AP, AP50 = Objective("ap", True), Objective("ap50", True)
MACS, PARAMS = Objective("macs", False), Objective("params", False)
LATENCY, SECONDS = Objective("latency_ms", False), Objective("train_seconds", False)


def latency(ms: float, steady: bool = True) -> Latency:
    return Latency(median_ms=ms, iqr_ms=0.0, steady=steady, protocol=None)  # type: ignore[arg-type]


def measured(number: int, depths: Sequence[int], ap: float, macs: int, **more: Any) -> Trial:
    params, ap50 = more.pop("params", 1), more.pop("ap50", 0.0)
    latency, seconds = more.pop("latency", None), more.pop("seconds", 0.0)
    return trial(
        number,
        toy(*depths),
        cost=CostMetrics(params=params, macs=macs, memory_access=1, latency=latency),
        metrics=Metrics(
            values={"ap": ap, "ap50": ap50, "train_seconds": seconds}, fidelity=more.get("fidelity", FIDELITY)
        ),
        **more,
    )


def reason(
    depths: Sequence[int],
    macs: int,
    history: Sequence[Trial],
    objectives: Sequence[Objective] = OBJECTIVES,
    slack: float = 0.0,
    latency: Latency | None = None,
) -> str | None:
    return prune_reason(
        toy(*depths),
        CostMetrics(params=1, macs=macs, memory_access=1, latency=latency),
        history,
        leq=leq,
        objectives=objectives,
        fidelity=FIDELITY,
        slack=slack,
    )


LARGER, RIVAL = measured(0, (2, 2), 0.5, 90), measured(1, (0, 5), 0.6, 40)


def test_both_witnesses_are_named_with_their_values() -> None:
    found = reason((1, 2), 50, [LARGER, RIVAL])
    assert found is not None
    for part in ("trial 0", "ap=0.5", "trial 1", "ap=0.6", "macs=40", "macs=50"):
        assert part in found


@pytest.mark.parametrize(
    ("depths", "macs", "history"),
    [
        ((1, 3), 50, [LARGER, RIVAL]),  # not comparable with y
        ((1, 2), 39, [LARGER, RIVAL]),  # cheaper than z
        ((1, 2), 50, [LARGER]),  # y costs more
        ((1, 2), 50, [RIVAL]),  # no y
        ((1, 2), 50, [LARGER, measured(1, (0, 5), 0.49, 40)]),  # z worse than y
        ((1, 2), 50, [measured(0, (1, 1), 0.1, 10), RIVAL]),  # y smaller than x: says nothing of x
        ((1, 2), 50, []),
    ],
)
def test_nothing_is_pruned_without_both_witnesses(depths: Sequence[int], macs: int, history: list[Trial]) -> None:
    assert reason(depths, macs, history) is None


def test_one_trial_can_be_both_witnesses() -> None:
    """A deeper network that is measured to be as fast makes the shallower one pointless."""
    assert reason((1, 2), 90, [LARGER]) is not None


@pytest.mark.parametrize("state", [state for state in TrialState if state is not TrialState.COMPLETE])
def test_only_complete_trials_are_witnesses(state: TrialState) -> None:
    assert reason((1, 2), 50, [LARGER, measured(1, (0, 5), 0.6, 40, state=state)]) is None


def test_only_trials_of_one_fidelity_are_compared() -> None:
    assert reason((1, 2), 50, [LARGER, measured(1, (0, 5), 0.6, 40, fidelity=Fidelity(9))]) is None
    assert reason((1, 2), 50, [measured(0, (2, 2), 0.5, 90, fidelity=Fidelity(9)), RIVAL]) is None
    other = Fidelity(9)
    both = [measured(0, (2, 2), 0.5, 90, fidelity=other), measured(1, (0, 5), 0.6, 40, fidelity=other)]
    assert reason((1, 2), 50, both) is None


def test_slack_asks_for_a_margin() -> None:
    assert reason((1, 2), 50, [LARGER, RIVAL], slack=0.09) is not None
    assert reason((1, 2), 50, [LARGER, RIVAL], slack=0.11) is None
    assert reason((1, 2), 90, [LARGER], slack=0.01) is None  # y itself never has a margin over y


def test_every_objective_must_agree() -> None:
    weak = measured(1, (0, 5), 0.6, 40, ap50=0.7)
    strong = measured(0, (2, 2), 0.5, 90, ap50=0.8)
    assert reason((1, 2), 50, [strong, weak], (AP, MACS)) is not None
    assert reason((1, 2), 50, [strong, weak], (AP, AP50, MACS)) is None
    fat = measured(1, (0, 5), 0.6, 40, params=2)
    assert reason((1, 2), 50, [LARGER, fat], (AP, MACS)) is not None
    assert reason((1, 2), 50, [LARGER, fat], (AP, MACS, PARAMS)) is None


def test_maximised_costs_turn_round() -> None:
    objectives = (AP, Objective("macs", True))
    assert reason((1, 2), 40, [LARGER, RIVAL], objectives) is not None
    assert reason((1, 2), 39, [LARGER, RIVAL], objectives) is not None
    assert reason((1, 2), 91, [LARGER, RIVAL], objectives) is None


def test_an_unknown_objective_that_is_minimised_forbids_pruning() -> None:
    """Nothing is assumed of how long a smaller network trains."""
    larger, rival = measured(0, (2, 2), 0.5, 90, seconds=9.0), measured(1, (0, 5), 0.6, 40, seconds=5.0)
    assert reason((1, 2), 50, [larger, rival], (AP, MACS)) is not None
    assert reason((1, 2), 50, [larger, rival], (AP, MACS, SECONDS)) is None


@pytest.mark.parametrize("unsteady", ["larger", "rival", "candidate", None])
def test_a_latency_that_was_not_steady_prunes_nothing(unsteady: str | None) -> None:
    larger, rival, candidate = (
        latency(ms, steady=who != unsteady) for who, ms in (("larger", 9.0), ("rival", 4.0), ("candidate", 5.0))
    )
    history = [measured(0, (2, 2), 0.5, 90, latency=larger), measured(1, (0, 5), 0.6, 40, latency=rival)]
    found = reason((1, 2), 50, history, (AP, LATENCY), latency=candidate)
    assert (found is not None) == (unsteady is None)
    assert reason((1, 2), 50, history, (AP, MACS), latency=candidate) is not None, "it is no objective here"


sides = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def monotone(shape: tuple[int, ...], rng: np.random.Generator, levels: int) -> np.ndarray:
    """Random values that never fall along any axis; few levels, so that ties are common."""
    found = rng.integers(0, levels, shape)
    for axis in range(len(shape)):
        found = np.maximum.accumulate(found, axis=axis)
    return found


@given(sides, st.integers(0, 2**32 - 1), st.integers(1, 2), st.integers(1, 2), st.integers(2, 12))
def test_no_value_of_the_true_front_is_lost(
    shape: tuple[int, ...], seed: int, accuracies: int, costs: int, levels: int
) -> None:
    """Accuracy and cost monotone, whatever the order in which candidates come."""
    rng = np.random.default_rng(seed)
    objectives = [*(AP, AP50)[:accuracies], *(MACS, PARAMS)[:costs]]
    tables = [monotone(shape, rng, levels) for _ in range(4)]
    members = list(itertools.product(*map(range, shape)))
    every = [
        measured(
            number, members[index], float(tables[0][members[index]]), int(tables[1][members[index]]),
            ap50=float(tables[2][members[index]]), params=int(tables[3][members[index]]),
        )
        for number, index in enumerate(rng.permutation(len(members)))
    ]  # fmt: skip
    assert front_values(not_pruned(every, objectives), objectives) == front_values(every, objectives)


@given(sides, st.integers(0, 2**32 - 1), st.integers(2, 4), st.booleans())
def test_neither_training_time_nor_a_disturbed_latency_costs_the_front_a_value(
    shape: tuple[int, ...], seed: int, levels: int, timed: bool
) -> None:
    """Only accuracy is monotone; training takes any time, and some latencies are measured wrongly and not steady."""
    rng = np.random.default_rng(seed)
    objectives = [AP, LATENCY, *([SECONDS] if timed else [])]
    accuracy = monotone(shape, rng, levels)
    members = list(itertools.product(*map(range, shape)))
    true: list[Trial] = []
    found: list[Trial] = []
    for number, index in enumerate(rng.permutation(len(members))):
        ms, disturbed, seconds = map(float, rng.integers(50, size=3))
        steady = bool(rng.integers(2))
        for trials, measurement in (
            (true, latency(ms)),
            (found, latency(ms if steady else disturbed, steady)),
        ):
            ap = float(accuracy[members[index]])
            trials.append(measured(number, members[index], ap, 1, latency=measurement, seconds=seconds))
    kept = [true[trial.number] for trial in not_pruned(found, objectives)]
    assert front_values(kept, objectives) == front_values(true, objectives)
    if timed:
        assert len(kept) == len(true)


def not_pruned(trials: list[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """What a study that meets the trials in this order evaluates."""
    evaluated: list[Trial] = []
    for one in trials:
        assert one.cost is not None
        if prune_reason(one.spec, one.cost, evaluated, leq=leq, objectives=objectives, fidelity=FIDELITY) is None:
            evaluated.append(one)
    return evaluated


def front_values(trials: list[Trial], objectives: Sequence[Objective]) -> set[tuple[float, ...]]:
    points = matrix(trials, objectives)
    return set(map(tuple, points[non_dominated(points)].tolist()))
