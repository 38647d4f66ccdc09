from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from detsearch.errors import StudyError
from detsearch.search.execution.base import Broken, Done, Event, Executor, Interrupted, Progress
from detsearch.search.execution.processes import ProcessExecutor
from detsearch.search.trial import TrialContext
from tests.contracts.executor_contract import ExecutorContract, add, collect, ended, unpicklable, until_stopped


def signalled(number: int, context: TrialContext) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def exit_at_once(status: int, context: TrialContext) -> None:
    os._exit(status)


def leave(context: TrialContext) -> None:
    sys.exit("enough")


def sleep_with_child(context: TrialContext) -> None:
    child = subprocess.Popen(["sleep", "600"])
    draft = context.folder / "draft"
    draft.write_text(f"{os.getpid()} {child.pid}")
    draft.replace(context.folder / "pids")
    context.report(0, 1, "asleep")
    time.sleep(600)


def shared_by(context: TrialContext) -> int:
    return context.sharing


def write_output(context: TrialContext) -> tuple[str, int]:
    print("from Python")
    os.system("echo from below >&2")
    return os.environ["OMP_NUM_THREADS"], os.getpid()


def tell_pid(context: TrialContext) -> str:
    draft = context.folder / "draft"
    draft.write_text(str(os.getpid()))
    draft.replace(context.folder / "pid")
    return "result"


class Unreadable:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return int, ("not a number",)


def unreadable(context: TrialContext) -> Unreadable:
    return Unreadable()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in time"
        time.sleep(0.02)


class TestProcessExecutor(ExecutorContract):
    def make(self) -> Executor:
        return ProcessExecutor(("cpu", "cpu"))

    @pytest.mark.parametrize(
        ("function", "args", "reason"),
        [
            (signalled, (signal.SIGSEGV,), "SIGSEGV"),
            (signalled, (signal.SIGKILL,), "SIGKILL (out of memory?)"),
            (exit_at_once, (7,), "exited with status 7"),
            (exit_at_once, (0,), "without a result"),
            (leave, (), "SystemExit: enough"),
            (unpicklable, (), "pickle"),
            (unreadable, (), "cannot be read"),
        ],
    )
    def test_a_crash_ends_one_task(
        self, executor: Executor, tmp_path: Path, function: Callable[..., Any], args: tuple[Any, ...], reason: str
    ) -> None:
        executor.submit(0, tmp_path / "0", function, args)
        executor.submit(1, tmp_path / "1", add, (1, 2))
        found = {event.number: event for event in collect(executor, ended(2))}
        assert found[1] == Done(1, 3)
        broken = found[0]
        assert isinstance(broken, Broken)
        assert reason in broken.reason

    def test_tasks_run_side_by_side_on_their_devices(self, tmp_path: Path) -> None:
        with closing(ProcessExecutor(("a", "b"))) as executor:
            for number in (0, 1):
                executor.submit(number, tmp_path / str(number), until_stopped, ())
            collect(executor, lambda events: len({e.number for e in events if isinstance(e, Progress)}) == 2)
            executor.stop()
            assert {e.number for e in collect(executor, ended(2)) if isinstance(e, Interrupted)} == {0, 1}

    def test_tasks_know_how_many_share_their_device(self, tmp_path: Path) -> None:
        for told, counts in ((None, {2: 2, 1: 1}), (3, {3: 3})):
            with closing(ProcessExecutor(("cpu", "other", "cpu"), sharing=told)) as executor:
                for number in range(3):
                    executor.submit(number, tmp_path / str(number), shared_by, ())
                values = [event.value for event in collect(executor, ended(3)) if isinstance(event, Done)]
            assert {value: values.count(value) for value in values} == counts

    def test_termination_from_outside_is_an_interruption(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(0, tmp_path, signalled, (signal.SIGTERM,))
        assert collect(executor, ended(1)) == [Interrupted(0)]

    def test_a_result_sent_just_before_the_request_to_stop_is_received(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        executor.submit(0, tmp_path, tell_pid, ())
        wait_for((tmp_path / "pid").exists)
        wait_for(lambda: gone(int((tmp_path / "pid").read_text())))
        executor.stop()
        assert collect(executor, ended(1)) == [Done(0, "result")]

    def test_output_goes_to_the_log_and_threads_are_set(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(0, tmp_path, write_output, ())
        (event,) = collect(executor, ended(1))
        assert isinstance(event, Done)
        assert event.value[0] == "1"
        assert event.value[1] != os.getpid()
        assert sorted((tmp_path / "log.txt").read_text().split("\n")) == ["", "from Python", "from below"]

    def test_time_limit_ends_a_task_and_its_children(self, tmp_path: Path) -> None:
        with closing(ProcessExecutor(time_limit=1.0)) as executor:
            executor.submit(0, tmp_path, sleep_with_child, ())
            assert collect(executor, ended(1))[-1] == Broken(0, "time limit of 1 s exceeded")
            pids = list(map(int, (tmp_path / "pids").read_text().split()))
            wait_for(lambda: all(map(gone, pids)))
            executor.submit(1, tmp_path, add, (1, 2))
            assert collect(executor, ended(1)) == [Done(1, 3)]

    def test_kill_interrupts_what_does_not_listen(self, executor: Executor, tmp_path: Path) -> None:
        executor.submit(0, tmp_path, sleep_with_child, ())
        collect(executor, lambda events: len(events) == 1)
        executor.kill()
        assert collect(executor, ended(1)) == [Interrupted(0)]
        wait_for(lambda: all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split()))

    def test_close_ends_what_runs(self, tmp_path: Path) -> None:
        executor = ProcessExecutor()
        executor.submit(0, tmp_path, sleep_with_child, ())
        events: list[Event] = []
        while not events:
            executor.poll(events.append, 1.0)
        executor.close()
        wait_for(lambda: all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split()))

    def test_what_cannot_be_imported_is_refused_at_once(self, executor: Executor, tmp_path: Path) -> None:
        with pytest.raises(StudyError, match="evaluate: expected a function"):
            executor.submit(0, tmp_path, lambda context: None, ())
        assert executor.running() == frozenset()
        executor.submit(1, tmp_path, add, (1, 2))
        assert collect(executor, ended(1)) == [Done(1, 3)]


COORDINATOR = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "runs").open("a").write("main\\n")  # a side effect of the program's top level
from detsearch.search.execution.processes import ProcessExecutor
from tests.search.execution.test_processes import sleep_with_child

def here(context):
    return 1

if __name__ == "__main__":
    executor = ProcessExecutor()
    try:
        executor.submit(0, folder / "0", here, ())
    except Exception as error:
        (folder / "refused").write_text(str(error))
    executor.submit(0, folder / "0", sleep_with_child, ())
    while True:
        executor.poll(lambda event: None, 1.0)
"""


def test_children_end_with_a_killed_coordinator_and_never_run_its_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(COORDINATOR)
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, program, tmp_path], env={**os.environ, "PYTHONPATH": str(root)}, cwd=tmp_path
    )
    pids = tmp_path / "0" / "pids"
    wait_for(pids.exists, 60)
    found = list(map(int, pids.read_text().split()))
    assert not any(map(gone, found))
    process.kill()
    process.wait()
    wait_for(lambda: all(map(gone, found)))
    assert (tmp_path / "runs").read_text() == "main\n"
    assert "not in the program that is run" in (tmp_path / "refused").read_text()
