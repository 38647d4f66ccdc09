from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detsearch.arch.spec import DetectorSpec
from detsearch.errors import RecipeError, StudyError
from detsearch.search.evolution import Evolution
from detsearch.search.execution.base import Executor
from detsearch.search.execution.inline import InlineExecutor
from detsearch.search.execution.processes import ProcessExecutor
from detsearch.search.lease import Owner
from detsearch.search.ledger import Ledger
from detsearch.search.objective import Limit
from detsearch.search.pareto import front
from detsearch.search.random_search import RandomSearch
from detsearch.search.study import Ending, Search, StudyEvent, run_study
from detsearch.search.trial import Trial, TrialContext, TrialInterrupted, TrialState, proposal_rng
from detsearch.types import CostMetrics, Fidelity, Latency, Metrics
from tests.search.codec import TOY_CODEC
from tests.search.toy import (
    FIDELITY,
    OBJECTIVES,
    ToySpace,
    cost,
    depths,
    evaluate,
    evaluate_badly,
    evaluate_slowly,
    leq,
    metrics,
)

SPACE = ToySpace((6, 3))


def search(**changes: Any) -> Search:
    strategy = Evolution(space=SPACE, objectives=OBJECTIVES, initial=6)
    settings = {"strategy": strategy, "cost": cost, "evaluate": evaluate, "fidelity": FIDELITY, "seed": 1, **changes}
    return Search(**settings)


def ledger(folder: Path, **options: Any) -> Ledger:
    return Ledger(folder, {"space": "toy"}, OBJECTIVES, codec=TOY_CODEC, **options)


def run(
    folder: Path, what: Search, executor: Executor | None = None, *, trials: int | None = 12, **options: Any
) -> tuple[Ending, list[Trial]]:
    with closing(executor or InlineExecutor()) as used, ledger(folder) as book:
        return run_study(book, what, used, trials=trials, **options), book.trials()


def lineage(trials: list[Trial]) -> list[tuple[Any, ...]]:
    return [(t.number, t.code, t.origin, t.parents, t.seed, t.state, t.reason) for t in trials]


def states(trials: list[Trial]) -> Counter[str]:
    return Counter(str(t.state) for t in trials)


def test_a_study_reaches_its_budget_and_can_be_enlarged(tmp_path: Path) -> None:
    ending, trials = run(tmp_path, search(), trials=5)
    assert (ending, states(trials)) == (Ending.TRIALS, {"complete": 5})
    again, same = run(tmp_path, search(), trials=5)
    assert (again, lineage(same)) == (ending, lineage(trials))
    _, more = run(tmp_path, search(), trials=9)
    assert lineage(more[:5]) == lineage(trials)
    assert states(more) == {"complete": 9}
    assert len({t.code for t in more}) == 9


def test_interruptions_leave_no_trace_in_what_is_proposed(tmp_path: Path) -> None:
    _, whole = run(tmp_path / "a", search(leq=leq), trials=12)
    for trials in (1, 2, 7, 12):
        _, parts = run(tmp_path / "b", search(leq=leq), trials=trials)
    assert lineage(parts) == lineage(whole)
    _, other = run(tmp_path / "c", search(leq=leq, seed=2), trials=12)
    assert lineage(other) != lineage(whole)


def test_pruned_trials_do_not_count_and_lose_nothing(tmp_path: Path) -> None:
    """The closed form is monotone, so the whole space gives the true front, with fewer trainings."""
    ending, trials = run(tmp_path, search(leq=leq, cost=flat_cost), trials=None)
    assert ending is Ending.EXHAUSTED
    assert len(trials) == SPACE.size()
    assert states(trials)["pruned"] > 0
    pruned = next(t for t in trials if t.state is TrialState.PRUNED)
    assert "trial" in str(pruned.reason)
    assert pruned.cost is not None
    assert pruned.attempts == 0
    _, every = run(tmp_path / "all", search(cost=flat_cost), trials=None)
    assert states(every) == {"complete": SPACE.size()}

    def values(trials: list[Trial]) -> set[tuple[float, float]]:
        return {(t.values()["ap"], t.values()["macs"]) for t in front(trials, OBJECTIVES)}

    assert values(trials) == values(every)
    needed = states(trials)["complete"]
    _, some = run(tmp_path / "some", search(leq=leq, cost=flat_cost), trials=needed)
    assert states(some)["complete"] == needed < len(some)


def flat_cost(spec: DetectorSpec) -> CostMetrics:
    """Steps in cost, as measured latency has them: the second depth costs nothing until it is 2."""
    first, second = depths(spec)
    return CostMetrics(params=1, macs=10 + 3 * first + 5 * (second // 2), memory_access=1)


def test_limits_prune_before_training(tmp_path: Path) -> None:
    _, trials = run(tmp_path, search(limits=(Limit("macs", 20), Limit("params", 5))), trials=None)
    for t in trials:
        assert t.cost is not None
        broken = t.cost.macs > 20 or t.cost.params > 5
        assert t.state is (TrialState.PRUNED if broken else TrialState.COMPLETE)
        assert ("is above the limit" in str(t.reason)) == broken


def test_what_is_out_by_one_limit_need_not_have_the_cost_of_another(tmp_path: Path) -> None:
    """So a latency need not be measured of what has too many MACs."""
    _, trials = run(tmp_path, search(limits=(Limit("latency_ms", 20), Limit("macs", 1))))
    assert all("is above the limit macs<=1" in str(trial.reason) for trial in trials)


def test_a_limit_on_what_is_not_known_before_training_ends_the_study(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="known before training"):
        run(tmp_path, search(limits=(Limit("latency_ms", 20),)))
    assert states(run(tmp_path, search(), trials=3)[1]) == {"complete": 3}


def test_endless_pruning_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detsearch.search.study.PRUNED_IN_A_ROW", 10)
    what = search(strategy=RandomSearch(space=ToySpace((30, 30))), limits=(Limit("macs", 1),))
    ending, trials = run(tmp_path, what, trials=3)
    assert (ending, states(trials)) == (Ending.PRUNED, {"pruned": 10})
    ending, more = run(tmp_path, what, trials=3)
    assert (ending, states(more)) == (Ending.PRUNED, {"pruned": 20}), "it goes on, and counts anew"
    assert lineage(more[:10]) == lineage(trials)
    ending, most = run(tmp_path, replace(what, limits=()), trials=3)
    assert (ending, states(most)) == (Ending.TRIALS, {"pruned": 20, "complete": 3})


def moody_cost(spec: DetectorSpec) -> CostMetrics:
    match depths(spec)[0]:
        case 1:
            raise ValueError("cannot\nbe built")
        case 2:
            return replace(cost(spec), latency=NAN_LATENCY)
    return cost(spec)


NAN_LATENCY = Latency(median_ms=math.nan, iqr_ms=0.0, steady=False, protocol=None)  # type: ignore[arg-type]


def moody_evaluate(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Any:
    match depths(spec)[0]:
        case 3:
            return {"ap": 1.0}
        case 4:
            return Metrics(values={"ap50": 1.0}, fidelity=fidelity)
        case 5:
            return metrics(spec, Fidelity(1))
    return Metrics(values={"ap": math.inf if depths(spec)[1] == 0 else 0.5, "extra": math.nan}, fidelity=fidelity)


def test_a_bad_candidate_ends_only_itself(tmp_path: Path) -> None:
    ending, trials = run(tmp_path, search(cost=moody_cost, evaluate=moody_evaluate), trials=None)
    assert (ending, len(trials)) == (Ending.EXHAUSTED, SPACE.size())
    reasons = {t.code: t.reason for t in trials if t.state is TrialState.FAILED}
    assert reasons["1-0"] == "cost: ValueError: cannot be built"
    assert reasons["2-0"] == "cost: latency_ms is nan"
    assert reasons["3-0"] == "evaluate returned dict instead of Metrics"
    assert "objective ap is missing" in str(reasons["4-0"])
    assert reasons["5-0"] == "evaluated for 1 epochs instead of 3"
    assert reasons["0-0"] == "ap is inf"
    assert states(trials) == {"failed": 16, "complete": 2}


def test_failed_trials_count(tmp_path: Path) -> None:
    _, trials = run(tmp_path, search(cost=moody_cost, evaluate=moody_evaluate), trials=10)
    assert len(trials) == 10


def test_crashes_in_processes_end_one_trial_each(tmp_path: Path) -> None:
    what = search(strategy=RandomSearch(space=ToySpace((6,))), evaluate=evaluate_badly)
    ending, trials = run(tmp_path, what, ProcessExecutor(("cpu", "cpu")), trials=None)
    assert ending is Ending.EXHAUSTED
    reasons = {t.code: t.reason for t in trials}
    assert "SIGSEGV" in str(reasons["1"])
    assert "status 7" in str(reasons["2"])
    assert reasons["3"] == "ValueError: no good"
    assert reasons["4"] == "ap is nan"
    assert states(trials) == {"failed": 4, "complete": 2}
    number = next(t.number for t in trials if t.code == "5")
    assert "said on stderr" in (tmp_path / "trials" / f"{number:04d}" / "log.txt").read_text()


def forever(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    while depths(spec) == (1,):
        time.sleep(1)
    return metrics(spec, fidelity)


def test_time_limit_fails_one_trial(tmp_path: Path) -> None:
    what = search(strategy=RandomSearch(space=ToySpace((2,))), evaluate=forever)
    _, trials = run(tmp_path, what, ProcessExecutor(time_limit=7), trials=None)
    assert {t.code: t.reason for t in trials} == {"0": None, "1": "time limit of 7 s exceeded"}


def test_seconds_start_nothing_new(tmp_path: Path) -> None:
    now = iter(range(10_000))
    ending, trials = run(tmp_path, search(), trials=None, seconds=5, clock=lambda: float(next(now)))
    assert ending is Ending.SECONDS
    assert 0 < len(trials) < 6
    assert states(trials) == {"complete": len(trials)}


def always_interrupted(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    raise TrialInterrupted("though nobody asked")


def test_a_trial_that_always_gives_up_is_given_up(tmp_path: Path) -> None:
    _, trials = run(tmp_path, search(evaluate=always_interrupted), trials=2)
    assert states(trials) == {"failed": 2}
    assert {t.attempts for t in trials} == {4}


def test_events_tell_the_story(tmp_path: Path) -> None:
    events: list[StudyEvent] = []
    run(tmp_path, search(evaluate=evaluate_slowly, fidelity=Fidelity(2)), trials=1, on_event=events.append)
    told = [(e.kind, str(e.trial.state) if e.trial else None, e.epoch) for e in events]
    assert told == [
        ("trial", "running", 0),
        ("progress", "running", 1),
        ("progress", "running", 2),
        ("trial", "complete", 0),
    ]


def test_what_cannot_be_sent_to_a_process_ends_the_study_and_is_mended(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="evaluate"):
        run(tmp_path, search(evaluate=lambda *_: None), ProcessExecutor(), trials=1)
    _, trials = run(tmp_path, search(), trials=1)
    assert states(trials) == {"complete": 1}


def test_the_live_lease_of_another_is_waited_for(tmp_path: Path) -> None:
    """One of two trials runs on another machine: it is not run again, and counts, until its lease expires."""
    now = [0.0]
    with ledger(tmp_path, owner=Owner("another-host.invalid", 1, 0.0), clock=lambda: now[0]) as other:
        what = search()
        proposal = what.strategy.propose([], [], proposal_rng(1, 0))
        assert proposal is not None
        other.start(other.add(proposal, fidelity=FIDELITY, seed=1).number)
        other.record_cost(0, cost(proposal.spec))
    seen: list[tuple[int, float]] = []

    def watch(event: StudyEvent) -> None:
        assert event.trial is not None
        seen.append((event.trial.number, now[0]))

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    with ledger(tmp_path, clock=tick) as book, closing(InlineExecutor()) as executor:
        assert run_study(book, what, executor, trials=2, on_event=watch) is Ending.TRIALS
        assert states(book.trials()) == {"complete": 2}
        assert book.trials()[0].attempts == 2
    assert all(when >= 60 for number, when in seen if number == 0)


def interrupt_when(running: int, times: int = 1) -> Callable[[StudyEvent], None]:
    """An on_event that sends this process SIGINT once `running` trials have said something."""
    heard: set[int] = set()

    def on_event(event: StudyEvent) -> None:
        if event.kind == "progress" and event.trial is not None and len(heard) < running:
            heard.add(event.trial.number)
            if len(heard) == running:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)

    return on_event


@pytest.mark.parametrize("make", [lambda: ProcessExecutor(("cpu", "cpu")), InlineExecutor])
def test_ctrl_c_lets_trials_save(tmp_path: Path, make: Callable[[], Executor]) -> None:
    before = signal.getsignal(signal.SIGINT)
    what = search(
        evaluate=evaluate_slowly, fidelity=Fidelity(20)
    )  # long enough for both to be at work on a busy machine
    executor = make()
    slots = executor.slots()
    ending, trials = run(tmp_path, what, executor, trials=3, on_event=interrupt_when(slots))
    assert signal.getsignal(signal.SIGINT) is before
    assert (ending, states(trials)) == (Ending.INTERRUPTED, {"preempted": slots})
    ending, trials = run(tmp_path, what, make(), trials=3)
    assert (ending, states(trials)) == (Ending.TRIALS, {"complete": 3})
    assert [t.attempts for t in trials] == [2] * slots + [1] * (3 - slots)
    for t in trials:
        log = (tmp_path / "trials" / f"{t.number:04d}" / "epochs").read_text().splitlines()
        assert [int(line.split()[0]) for line in log] == list(range(20)), "no epoch lost, none twice"


def deaf(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    done = context.folder / "once"
    if not done.exists():
        done.touch()
        context.report(0, 1, "deaf")
        time.sleep(600)
    return metrics(spec, fidelity)


@pytest.mark.parametrize("make", [ProcessExecutor, InlineExecutor])
def test_a_second_ctrl_c_kills(tmp_path: Path, make: Callable[[], Executor]) -> None:
    began = time.monotonic()
    ending, trials = run(tmp_path, search(evaluate=deaf), make(), trials=1, on_event=interrupt_when(1, times=2))
    assert (ending, states(trials)) == (Ending.INTERRUPTED, {"preempted": 1})
    assert time.monotonic() - began < 60
    assert states(run(tmp_path, search(evaluate=deaf), make(), trials=1)[1]) == {"complete": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_the_machine_or_the_terminal_lets_trials_save(tmp_path: Path, number: signal.Signals) -> None:
    inherited = signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
    what = search(evaluate=evaluate_slowly, fidelity=Fidelity(4))

    def end(event: StudyEvent) -> None:
        if event.kind == "progress":
            os.kill(os.getpid(), number)

    ending, trials = run(tmp_path, what, trials=2, on_event=end)
    assert signal.signal(number, inherited) is signal.SIG_DFL
    assert (ending, states(trials)) == (Ending.INTERRUPTED, {"preempted": 1})


def until_stopped(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    context.report(0, 1, "begun")
    while not context.should_stop():
        time.sleep(0.01)
    (context.folder / "saved").touch()
    raise TrialInterrupted("saved")


CLOSED_TERMINAL = """
import os, signal, sys
from pathlib import Path
from tests.search.test_study import *

def close(event):
    if event.kind == "progress":
        os.killpg(0, signal.SIGHUP)

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
print(run(Path(sys.argv[1]), search(evaluate=until_stopped), ProcessExecutor(), on_event=close)[0])
"""


def test_a_closed_terminal_lets_processes_save(tmp_path: Path) -> None:
    """It tells all its processes, the prepared parent of the trials too."""
    done = subprocess.run(
        [sys.executable, "-c", CLOSED_TERMINAL, tmp_path],
        start_new_session=True, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "interrupted\n"
    assert (tmp_path / "trials" / "0000" / "saved").exists()


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ending, _ = run(tmp_path, search(), trials=2, on_event=lambda _: os.kill(os.getpid(), signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ending is Ending.TRIALS


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: Path) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path, search(), trials=2)[0]))
    thread.start()
    thread.join()
    assert found == [Ending.TRIALS]
