"""What every executor must do; a subclass in tests/search/execution makes one. Tasks are importable functions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from detsearch.errors import ResourceError
from detsearch.search.execution.base import Broken, Done, Event, Executor, Interrupted, Progress, Unusable
from detsearch.search.trial import TrialContext, TrialInterrupted

DEADLINE = 30.0


def add(a: int, b: int, context: TrialContext) -> int:
    return a + b


def three_epochs(context: TrialContext) -> str:
    for epoch in (1, 2, 3):
        context.report(epoch, 3, f"loss {epoch}")
    return "trained"


def describe(context: TrialContext) -> tuple[str, str, int, bool]:
    return str(context.folder), context.device, context.threads, context.should_stop()


def fail(context: TrialContext) -> None:
    raise ValueError("bad\nvalue")


def lack(context: TrialContext) -> None:
    raise ResourceError("weights.pt", "a file", "none", "put it there")


def unpicklable(context: TrialContext) -> Any:
    return threading.Lock()


def until_stopped(context: TrialContext) -> None:
    (context.folder / "begun").touch()
    while not context.should_stop():
        time.sleep(0.01)
        context.report(0, 1, "waiting")
    (context.folder / "saved").write_text("yes")
    raise TrialInterrupted("saved")


def collect(executor: Executor, until: Callable[[list[Event]], bool]) -> list[Event]:
    """Poll until the events satisfy the condition."""
    events: list[Event] = []
    end = time.monotonic() + DEADLINE
    while not until(events):
        assert time.monotonic() < end, f"only {events}"
        executor.poll(events.append, 0.05)
    return events


def ended(count: int) -> Callable[[list[Event]], bool]:
    return lambda events: sum(not isinstance(event, Progress) for event in events) >= count


class ExecutorContract:
    """Subclasses define `make`; `executor` is closed after each test."""

    def make(self) -> Executor:
        raise AssertionError("a subclass says how")

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with closing(self.make()) as executor:
            yield executor

    def test_value_comes_back_once(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(4, tmp_path / "4", add, (1, 2))
        assert executor.running() == {4}
        assert collect(executor, ended(1)) == [Done(4, 3)]
        assert executor.running() == frozenset()
        late: list[Event] = []
        executor.poll(late.append, 0.0)
        assert late == []

    def test_context(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(0, tmp_path / "new" / "0", describe, ())
        assert collect(executor, ended(1)) == [Done(0, (str(tmp_path / "new" / "0"), "cpu", 1, False))]

    def test_progress_arrives_in_order_before_the_end(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(0, tmp_path, three_epochs, ())
        expected = [Progress(0, epoch, 3, f"loss {epoch}") for epoch in (1, 2, 3)]
        assert collect(executor, ended(1)) == [*expected, Done(0, "trained")]

    def test_exception_ends_one_task_with_one_line_and_a_log(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(0, tmp_path, fail, ())
        assert collect(executor, ended(1)) == [Broken(0, "ValueError: bad value")]
        assert "Traceback" in (tmp_path / "log.txt").read_text()
        executor.submit(1, tmp_path, add, (1, 1))
        assert collect(executor, ended(1)) == [Done(1, 2)]

    def test_what_the_machine_lacks_is_told_apart_from_what_the_task_did(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        executor.submit(0, tmp_path, lack, ())
        (event,) = collect(executor, ended(1))
        assert isinstance(event, Unusable)
        assert event.number == 0
        assert isinstance(event.error, ResourceError)
        assert str(event.error) == "weights.pt: expected a file, got none; put it there"
        assert "Traceback" in (tmp_path / "log.txt").read_text()
        assert executor.running() == frozenset()

    def test_stop_lets_tasks_save(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(0, tmp_path, until_stopped, ())
        events: list[Event] = []

        def deliver(event: Event) -> None:
            events.append(event)
            executor.stop()

        end = time.monotonic() + DEADLINE
        while not ended(1)(events) and time.monotonic() < end:
            executor.poll(deliver, 0.05)
        assert events[-1] == Interrupted(0)
        assert (tmp_path / "saved").read_text() == "yes"

    def test_what_is_submitted_after_stop_is_asked_too(self, executor: Executor, tmp_path: Path) -> None:
        executor.stop()
        executor.submit(0, tmp_path, until_stopped, ())
        assert collect(executor, ended(1))[-1] == Interrupted(0)

    def test_nothing_to_do_returns(self, executor: Executor) -> None:
        before = time.monotonic()
        executor.poll(lambda event: pytest.fail(f"{event}"), 0.05)
        assert time.monotonic() - before < 5
