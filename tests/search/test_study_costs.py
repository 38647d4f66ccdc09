"""What becomes of a study whose costs last, fail, or take their process or the coordinator with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from detsearch.arch.spec import DetectorSpec
from detsearch.errors import ResourceError
from detsearch.search.execution.base import Executor
from detsearch.search.execution.inline import InlineExecutor
from detsearch.search.execution.processes import ProcessExecutor
from detsearch.search.random_search import RandomSearch
from detsearch.search.study import Ending
from detsearch.search.trial import TrialContext, TrialState
from detsearch.types import CostMetrics, Fidelity, Metrics
from tests.search.test_study import ledger, run, search, states
from tests.search.toy import FIDELITY, ToySpace, cost, depths, evaluate_slowly


@dataclass(frozen=True)
class Endless:
    """A cost that never ends, and asks the coordinator twice to end."""

    coordinator: int

    def __call__(self, spec: DetectorSpec) -> CostMetrics:
        for _ in range(2):
            os.kill(self.coordinator, signal.SIGINT)
            time.sleep(0.3)
        time.sleep(600)
        return cost(spec)


@pytest.mark.parametrize("make", [ProcessExecutor, InlineExecutor])
def test_a_second_ctrl_c_breaks_out_of_the_cost(tmp_path: Path, make: Callable[[], Executor]) -> None:
    began = time.monotonic()
    for _ in range(5):  # more often than a trial may be lost
        ending, trials = run(tmp_path, search(cost=Endless(os.getpid())), make(), trials=1)
        assert (ending, states(trials)) == (Ending.INTERRUPTED, {"waiting": 1})
    assert time.monotonic() - began < 60
    assert states(run(tmp_path, search(), trials=1)[1]) == {"complete": 1}


def test_one_ctrl_c_lets_the_cost_end(tmp_path: Path) -> None:
    def slow(spec: DetectorSpec) -> CostMetrics:
        os.kill(os.getpid(), signal.SIGINT)
        return cost(spec)

    ending, (one,) = run(tmp_path, search(cost=slow), trials=1)
    assert (ending, one.state) == (Ending.INTERRUPTED, TrialState.WAITING)
    assert one.cost is not None


DYING = """
import os, signal, sys
from pathlib import Path
from tests.search.test_study_costs import *

def cost_of_the_last(spec):
    deaths = Path(sys.argv[1]) / "deaths"
    died = len(deaths.read_text()) if deaths.exists() else 0
    if died < 4:
        deaths.write_text("x" * (died + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return cost(spec)

print(run(Path(sys.argv[1]), search(cost=cost_of_the_last), trials=2)[0])
"""


def test_coordinators_that_die_during_a_cost_are_not_counted_against_its_trial(tmp_path: Path) -> None:
    def attempt() -> int:
        return subprocess.run([sys.executable, "-c", DYING, tmp_path], check=False).returncode

    assert [attempt() for _ in range(5)] == [-signal.SIGKILL] * 4 + [0]
    with ledger(tmp_path) as book:
        assert states(book.trials()) == {"complete": 2}


def lost_cost(spec: DetectorSpec) -> CostMetrics:
    if depths(spec) == (1, 1):
        os.kill(os.getpid(), signal.SIGTERM)  # as of a machine that shuts down
    return cost(spec)


def test_a_cost_whose_process_is_lost_again_and_again_fails_its_trial(tmp_path: Path) -> None:
    what = search(strategy=RandomSearch(space=ToySpace((2, 2))), cost=lost_cost)
    _, trials = run(tmp_path, what, ProcessExecutor(("cpu", "cpu")), trials=None)
    reasons = {t.code: t.reason for t in trials}
    assert reasons.pop("1-1") == "cost: what computed it ended 4 times in a row before it was done"
    assert set(reasons.values()) == {None}


def deadly_cost(spec: DetectorSpec) -> CostMetrics:
    if depths(spec) == (1, 1):
        os._exit(9)
    return cost(spec)


def test_a_cost_that_ends_its_process_ends_one_trial(tmp_path: Path) -> None:
    what = search(strategy=RandomSearch(space=ToySpace((2, 2))), cost=deadly_cost)
    ending, trials = run(tmp_path, what, ProcessExecutor(("cpu", "cpu")), trials=None)
    assert ending is Ending.EXHAUSTED
    reasons = {t.code: t.reason for t in trials}
    assert reasons.pop("1-1") == "cost: the process exited with status 9 without a result"
    assert set(reasons.values()) == {None}
    assert states(trials) == {"complete": 3, "failed": 1}


@pytest.mark.parametrize("budget", [{"trials": 4}, {"epochs": 4 * FIDELITY.epochs}])
def test_costs_that_are_being_computed_count(tmp_path: Path, budget: dict[str, int]) -> None:
    """No candidate is proposed, and left waiting, for which there will be no budget."""
    _, trials = run(tmp_path, search(), ProcessExecutor(("cpu",) * 3), **budget)
    assert states(trials) == {"complete": 4}


def without_weights(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    """One trial misses a file that the others need not; they are at it meanwhile."""
    if context.folder.name == "0001" and not (context.folder.parent / "weights").exists():
        raise ResourceError("weights", "a file", "none")
    return evaluate_slowly(spec, fidelity, seed, context)


@pytest.mark.parametrize("make", [lambda: ProcessExecutor(("cpu", "cpu")), InlineExecutor])
def test_what_the_machine_lacks_ends_the_study_until_it_is_mended(tmp_path: Path, make: Callable[[], Executor]) -> None:
    what = search(evaluate=without_weights, fidelity=Fidelity(20))
    for _ in range(5):  # more often than a trial may be lost
        with pytest.raises(ResourceError, match="weights: expected a file"):
            run(tmp_path, what, make(), trials=3)
    with ledger(tmp_path) as book:
        assert set(states(book.trials())) <= {"preempted", "complete", "waiting"}, "saved, none lost"
        assert book.trials()[1].state is TrialState.PREEMPTED
    (tmp_path / "trials" / "weights").touch()
    assert states(run(tmp_path, what, make(), trials=3)[1]) == {"complete": 3}


def test_what_the_machine_lacks_for_the_cost_ends_the_study_too(tmp_path: Path) -> None:
    def no_device(spec: DetectorSpec) -> CostMetrics:
        raise ResourceError("device", "cuda:0", "none")

    for _ in range(5):
        with pytest.raises(ResourceError, match="cuda:0"):
            run(tmp_path, search(cost=no_device), trials=1)
    assert states(run(tmp_path, search(), trials=1)[1]) == {"complete": 1}
