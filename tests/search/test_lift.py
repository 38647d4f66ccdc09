from __future__ import annotations

from detsearch.arch.spec import DetectorSpec
from detsearch.search.lift import Lift, lifts
from detsearch.search.trial import TrialState
from detsearch.types import Fidelity, Metrics
from tests.search.toy import OBJECTIVES, depths, toy, trial


def part_of(spec: DetectorSpec) -> int | None:
    return {0: 0, 1: 1}.get(depths(spec)[0])


def scored(number: int, spec: DetectorSpec, ap: float, epochs: int = 3) -> object:
    fidelity = Fidelity(epochs)
    return trial(number, spec, fidelity=fidelity, metrics=Metrics(values={"ap": ap}, fidelity=fidelity))


def test_by_hand() -> None:
    # MACs are 10 + 3 a + 2 b: 16 for (0, 3), which is the baseline.
    trials = [
        scored(0, toy(0, 3), 0.40),
        scored(1, toy(0, 1), 0.41),  # better at less
        scored(2, toy(0, 2), 0.45),  # best at no more
        scored(3, toy(0, 5), 0.60),  # better, but costs more
        scored(4, toy(0, 0), 0.39),  # cheapest, but worse
        scored(5, toy(1, 0), 0.99),  # of another structure
        scored(6, toy(0, 4), 0.99, epochs=1),  # of another fidelity
        trial(7, toy(1, 1), TrialState.FAILED, reason="out of memory"),
        trial(8, toy(1, 2), TrialState.PRUNED, reason="macs=14 is above the limit macs<=13"),
    ]
    baselines = [toy(0, 3), toy(1, 0), toy(1, 1), toy(1, 2), toy(1, 3)]
    first, second, *others = lifts(trials, OBJECTIVES, baselines, part_of)  # type: ignore[arg-type]
    assert isinstance(first, Lift)
    assert isinstance(second, Lift)
    assert (first.baseline.number, first.trials, first.better.number, first.cheaper.number) == (0, 4, 2, 1)
    assert (second.baseline.number, second.trials) == (5, 0)
    assert second.better is second.cheaper is second.baseline
    assert others == ["failed: out of memory", "pruned: macs=14 is above the limit macs<=13", "not trained"]


def test_equal_ones_leave_the_baseline() -> None:
    trials = [scored(0, toy(0, 3), 0.40), scored(1, toy(0, 4), 0.40)]
    (found,) = lifts(trials, OBJECTIVES, [toy(0, 3)], part_of)  # type: ignore[arg-type]
    assert isinstance(found, Lift)
    assert found.better is found.cheaper is found.baseline
