from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from detsearch.errors import ResourceError, StudyError
from detsearch.search.lease import Owner
from detsearch.search.ledger import Ledger, read_study
from detsearch.search.objective import Objective
from detsearch.search.trial import Proposal, Trial, TrialState
from detsearch.types import Fidelity, Metrics
from tests.search.codec import TOY_CODEC
from tests.search.toy import FIDELITY, OBJECTIVES, cost, metrics, toy

IDENTITY = {"space": "toy", "seed": 3, "recipe": {"training": {"epochs": 3, "lr": 0.1}}}
ELSEWHERE = Owner("another-host.invalid", 1, 0.0)


def ledger(folder: Path, identity: Mapping[str, Any] = IDENTITY, **options: Any) -> Ledger:
    return Ledger(folder, identity, options.pop("objectives", OBJECTIVES), codec=TOY_CODEC, **options)


def read(folder: Path) -> list[Trial]:
    return list(read_study(folder, TOY_CODEC).trials)


def add(book: Ledger, *values: int) -> Trial:
    return book.add(Proposal(spec=toy(*values), origin="random"), fidelity=FIDELITY, seed=11)


def add_running(book: Ledger, *values: int) -> int:
    number = add(book, *values).number
    book.start(number)
    return number


def test_every_fact_comes_back(tmp_path: Path) -> None:
    with ledger(tmp_path / "study") as book:
        first = add(book, 1, 2)
        assert (first.number, first.state, first.code) == (0, TrialState.WAITING, "1-2")
        book.add(Proposal(spec=toy(2, 2), origin="mutation", parents=(0,)), fidelity=Fidelity(5), seed=2**32 - 1)
        book.record_cost(0, cost(toy(1, 2)))
        book.start(0)
        book.trial_folder(0).mkdir()
        book.finish(0, TrialState.COMPLETE, metrics=metrics(toy(1, 2)))
        book.finish(1, TrialState.PRUNED, reason="no use")
        number = add_running(book, 3, 3)
        book.preempt(number, lost=False)
        add_running(book, 4, 4)
        book.finish(add_running(book, 5, 5), TrialState.FAILED, reason="crashed")
        written = book.trials()
        states = ["complete", "pruned", "preempted", "running", "failed"]
        assert [t.state for t in written] == states == [t.state for t in read(tmp_path / "study")]
    study = read_study(tmp_path / "study", TOY_CODEC)
    assert study.objectives == OBJECTIVES
    assert study.identity["recipe"] == IDENTITY["recipe"]
    for here, there in zip(written, study.trials, strict=True):
        assert {**here.to_json(), "started": 0, "finished": 0} == {**there.to_json(), "started": 0, "finished": 0}
        assert here.spec == there.spec
    assert study.trials[0].seconds is not None
    assert study.trials[0].values()["macs"] == cost(toy(1, 2)).macs
    assert (tmp_path / "study" / "trials" / "0000" / "trial.json").exists()


def test_optuna_shows_the_values(tmp_path: Path) -> None:
    with ledger(tmp_path) as book:
        book.record_cost(add(book, 1, 2).number, cost(toy(1, 2)))
        book.start(0)
        book.finish(0, TrialState.COMPLETE, metrics=metrics(toy(1, 2)))
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'ledger.db'}")
    (best,) = study.best_trials
    assert best.values == [metrics(toy(1, 2)).values["ap"], 17.0]


@pytest.mark.parametrize(
    ("identity", "field"),
    [
        ({**IDENTITY, "seed": 4}, "seed: expected 3, got 4"),
        ({**IDENTITY, "recipe": {"training": {"epochs": 3, "lr": 0.2}}}, "recipe.training.lr: expected 0.1, got 0.2"),
        ({**IDENTITY, "more": 1}, "more: expected null, got 1"),
        ({"seed": 3, "recipe": IDENTITY["recipe"]}, 'space: expected "toy", got null'),
    ],
)
def test_the_folder_of_another_search_is_refused(tmp_path: Path, identity: dict[str, Any], field: str) -> None:
    with ledger(tmp_path) as book:
        add(book, 0, 0)
    before = (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(StudyError) as caught:
        ledger(tmp_path, identity)
    assert field in str(caught.value)
    assert (tmp_path / "ledger.db").read_bytes() == before
    with ledger(tmp_path) as book:  # and the refusal holds nothing
        assert len(book.trials()) == 1


@pytest.mark.parametrize(
    ("stored", "given", "field"),
    [
        ([1, 2, 3], [1, 5, 3], "space.depths[1]: expected 2, got 5"),
        ([1, 2], [1], "space.depths[1]: expected 2, got null"),
        ([1], [1, None], "space.depths[1]: expected null, got null"),
        ([], [4], "space.depths[0]: expected null, got 4"),
        ([{"a": 1}, {"b": [7, 8]}], [{"a": 1}, {"b": [7, 9]}], "space.depths[1].b[1]: expected 8, got 9"),
        ([1], 1, "space.depths: expected [1], got 1"),
    ],
)
def test_of_a_list_the_first_differing_element_is_named(tmp_path: Path, stored: Any, given: Any, field: str) -> None:
    ledger(tmp_path, {"space": {"depths": stored}}).close()
    ledger(tmp_path, {"space": {"depths": stored}}).close()
    with pytest.raises(StudyError) as caught:
        ledger(tmp_path, {"space": {"depths": given}})
    assert f"{field}; use another folder" in str(caught.value)


def test_other_objectives_are_another_search(tmp_path: Path) -> None:
    ledger(tmp_path).close()
    with pytest.raises(StudyError, match="objectives"):
        ledger(tmp_path, objectives=(Objective("ap", True),))


@pytest.mark.parametrize("content", [b"", b"not a database" * 100])
def test_a_damaged_ledger_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ledger.db").write_bytes(content)
    for attempt in (lambda: ledger(tmp_path), lambda: read_study(tmp_path)):
        with pytest.raises(StudyError, match="the ledger of a detsearch study"):
            attempt()
    assert (tmp_path / "ledger.db").read_bytes() == content


def test_databases_of_others_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("CREATE TABLE films (title TEXT)")
    connection.close()
    with pytest.raises(StudyError, match="the ledger of a detsearch study"):
        ledger(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    optuna.create_study(storage=f"sqlite:///{other / 'ledger.db'}", study_name="mine")
    with pytest.raises(StudyError, match="the ledger of a detsearch study"):
        read_study(other)


def test_a_trial_that_optuna_made_is_refused(tmp_path: Path) -> None:
    ledger(tmp_path).close()
    optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'ledger.db'}").enqueue_trial({"x": 1})
    with pytest.raises(StudyError, match="trial 0: expected a trial of detsearch"):
        ledger(tmp_path)


def test_an_architecture_of_a_missing_package_is_named_with_its_trial(tmp_path: Path) -> None:
    """The toy's codes are none of the installed catalogue's."""
    with ledger(tmp_path) as book:
        add(book, 1, 2)
    for attempt in (lambda: Ledger(tmp_path, IDENTITY, OBJECTIVES), lambda: read_study(tmp_path)):
        with pytest.raises(StudyError, match="install the packages") as caught:
            attempt()
        assert f"{tmp_path}: trial 0: expected" in str(caught.value)
        assert "got 1-2 (" in str(caught.value)
    with ledger(tmp_path) as book:
        assert len(book.trials()) == 1


def test_no_folder_no_study(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="expected the folder of a study"):
        read_study(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_reading_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ledger(tmp_path) as book:
        add(book, 1, 1)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(read(tmp_path)) == 1
    access = os.access  # root may write anywhere, so it has to be told that it can't
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))
    assert len(read(tmp_path)) == 1
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name in before} == before


def test_a_creation_that_was_killed_leaves_no_study(tmp_path: Path) -> None:
    (tmp_path / "ledger.draft").write_bytes(b"half a database")
    with ledger(tmp_path) as book:
        assert book.trials() == []


def test_a_second_coordinator_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    with pytest.raises(StudyError, match=rf"process {os.getpid()} on .* is running; wait for it or stop it"):
        ledger(tmp_path)
    first.close()
    ledger(tmp_path).close()


def test_a_dead_coordinator_holds_nothing(tmp_path: Path) -> None:
    """Killed without a chance to clean up: its lock is gone, and its leases are void before they expire."""
    script = """
import os, sys
from pathlib import Path
from tests.search.test_ledger import add_running, ledger
book = ledger(Path(sys.argv[1]), lease_seconds=1e6)
add_running(book, 1, 1)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    with ledger(tmp_path) as book:
        assert [t.state for t in book.foreign()] == ["running"]
        assert [t.state for t in book.reclaim()] == ["preempted"]
        assert book.foreign() == []


def test_the_death_of_coordinators_is_not_counted_against_their_trials(tmp_path: Path) -> None:
    for attempt in range(5):
        dead = Owner(socket.gethostname(), os.getpid(), float(attempt))  # of a process long before this one
        with ledger(tmp_path, owner=dead, max_losses=1) as book:
            assert [t.state for t in book.reclaim()] == ["preempted"] * min(attempt, 1)
            number = book.start(0).number if attempt else add_running(book, 1, 1)
    with ledger(tmp_path, max_losses=1) as book:
        book.reclaim()
        assert book.start(number).attempts == 6
        assert book.preempt(number, lost=True).state is TrialState.PREEMPTED, "the first loss that counts"


def test_a_cost_whose_process_always_dies_fails_its_trial(tmp_path: Path) -> None:
    with ledger(tmp_path, max_losses=2) as book:
        number = add(book, 1, 1).number
    for _ in range(2):
        with ledger(tmp_path, max_losses=2) as book:
            assert book.lose_cost(number).state is TrialState.WAITING
    with ledger(tmp_path, max_losses=2) as book:
        assert book.lose_cost(number).state is TrialState.FAILED
    (found,) = read(tmp_path)
    assert found.reason == "cost: what computed it ended 3 times in a row before it was done"


def test_only_an_expired_lease_is_taken_over(tmp_path: Path) -> None:
    now = [1000.0]
    with ledger(tmp_path, owner=ELSEWHERE, clock=lambda: now[0], lease_seconds=60) as book:
        number = add_running(book, 1, 1)
        now[0] = 1030.0
        book.renew()  # until 1090
        now[0] = 1031.0
        book.renew()  # too early to write again
    with ledger(tmp_path, clock=lambda: now[0]) as book:
        now[0] = 1089.0
        assert book.reclaim() == []
        assert [t.number for t in book.foreign()] == [number]
        now[0] = 1090.0
        assert [(t.number, t.state) for t in book.reclaim()] == [(number, TrialState.PREEMPTED)]
        assert book.start(number).attempts == 2
        now[0] = 5000.0
        assert book.reclaim() == [], "one's own trials are not lost"


def test_a_lease_renewed_meanwhile_is_seen(tmp_path: Path) -> None:
    """The other coordinator, on a file system without locks, is slow but alive; then its trial completes."""
    now = [0.0]
    other = ledger(tmp_path, owner=ELSEWHERE, clock=lambda: now[0], lease_seconds=60)
    number = add_running(other, 1, 1)
    other.record_cost(number, cost(toy(1, 1)))
    (tmp_path / "coordinator.lock").unlink()
    with ledger(tmp_path, clock=lambda: now[0]) as book:
        now[0] = 59.0
        other.renew()
        now[0] = 61.0
        assert book.reclaim() == []
        other.finish(number, TrialState.COMPLETE, metrics=metrics(toy(1, 1)))
        assert [t.state for t in book.reclaim()] == ["complete"]
        assert book.foreign() == []
    other.close()


def test_a_trial_that_is_always_lost_fails_and_one_that_goes_on_does_not(tmp_path: Path) -> None:
    with ledger(tmp_path, max_losses=2) as book:
        stuck = add_running(book, 1, 1)
        states = [book.preempt(stuck, lost=True).state]
        while states[-1] is TrialState.PREEMPTED:
            book.start(stuck)
            states.append(book.preempt(stuck, lost=True).state)
        assert states == ["preempted", "preempted", "failed"]
        assert "lost 3 times" in str(book.trials()[stuck].reason)
        steady = add(book, 2, 2).number
        for epoch in range(1, 6):
            book.start(steady)
            book.progress(steady, epoch)
            assert book.preempt(steady, lost=True).state is TrialState.PREEMPTED
        for _ in range(5):
            book.start(steady)
            assert book.preempt(steady, lost=False).state is TrialState.PREEMPTED


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.FAILED, TrialState.PRUNED])
def test_a_kill_between_outcome_and_state_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: TrialState
) -> None:
    book = ledger(tmp_path)
    number = add(book, 1, 1).number
    book.record_cost(number, cost(toy(1, 1)))
    if state is not TrialState.PRUNED:
        book.start(number)
    monkeypatch.setattr(book._storage, "set_trial_state_values", _killed)
    with pytest.raises(KeyboardInterrupt):
        book.finish(number, state, metrics=metrics(toy(1, 1)) if state is TrialState.COMPLETE else None, reason="why")
    book.close()
    assert [t.state for t in read(tmp_path)] == [state]
    with ledger(tmp_path) as again:
        assert [(t.state, t.reason) for t in again.trials()] == [(state, "why")]
        assert again.reclaim() == []
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'ledger.db'}")
    assert study.trials[0].state.is_finished()


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("make", [lambda path: path / "file" / "study", lambda path: Path("/proc/study")])
def test_a_folder_that_cannot_be_made(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="study: expected a folder, or a place to make one") as caught:
        ledger(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_damages_nothing(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk; the space comes back afterwards."""
    script = """
import resource, sys, time
from pathlib import Path
from detsearch.errors import ResourceError
from tests.search.test_ledger import add, ledger
time.sleep = lambda seconds: None  # optuna waits before it tries again
book = ledger(Path(sys.argv[1]))
add(book, 0, 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for number in range(200):
        add(book, number, 1)
except ResourceError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert "a place that can be written" in done.stdout
    with ledger(tmp_path) as book:
        known = book.trials()
        assert [t.number for t in known] == list(range(len(known)))
        assert [t.code for t in known] == ["0-0", *(f"{n}-1" for n in range(len(known) - 1))]
        add(book, 5, 5)


def test_metrics_keep_their_provenance(tmp_path: Path) -> None:
    found = Metrics(values={"ap": 0.5}, fidelity=FIDELITY, provenance={"split": "val", "classes": ["a", "b"]})
    with ledger(tmp_path) as book:
        book.record_cost(add(book, 1, 1).number, cost(toy(1, 1)))
        book.start(0)
        book.finish(0, TrialState.COMPLETE, metrics=found)
    assert read(tmp_path)[0].metrics == found
