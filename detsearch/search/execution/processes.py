"""One process for each trial, forked from a prepared parent (multiprocessing's forkserver).

A pool would be simpler, but one crash takes a pool's other tasks along; a fresh interpreter imports torch for seconds.
The prepared parent has imported the modules that the caller names, so a child starts in about 20 ms and shares their
memory. Needs POSIX.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from detsearch.errors import StudyError
from detsearch.search.execution.base import Broken, Done, Event, Interrupted, Progress, Unusable, one_line
from detsearch.search.execution.child import THREAD_VARIABLES, run_task

LOST_STATUS: Final = 255
"""What multiprocessing answers where the prepared parent itself was killed."""


@dataclass(slots=True)
class _Child:
    number: int
    process: ForkServerProcess
    pipe: Connection
    device: str
    deadline: float
    asked: bool = False
    outcome: Event | None = None
    open: bool = True


class ProcessExecutor:
    """Runs each task in a process of its own, one for each entry of `devices` (``("cpu", "cpu")`` for two at once).

    `threads` is the number of CPU threads of each task; `sharing` is how many tasks it is told that share its device,
    where these are not just the ones that have it here; `time_limit`, in seconds, ends a task that takes longer
    (counted for each start); `preload` names modules that the prepared parent imports. Functions and arguments must
    be importable: what is defined in the program's main module is refused, because a child would have to run that
    program again. Of one Python program only the first executor's `preload` counts, and its `threads` for libraries
    that read the environment when they are loaded.
    """

    def __init__(
        self,
        devices: Sequence[str] = ("cpu",),
        *,
        threads: int = 1,
        sharing: int | None = None,
        time_limit: float | None = None,
        preload: Sequence[str] = (),
    ) -> None:
        assert devices, "at least one device"
        self._free = list(reversed(devices))
        self._sharing = {device: sharing or devices.count(device) for device in devices}
        self._slots, self._threads, self._time_limit = len(devices), threads, time_limit
        self._children: dict[int, _Child] = {}
        self._stopping = self._killing = False
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*preload, run_task.__module__])
        atexit.register(self.close)  # multiprocessing would wait for what still runs

    def slots(self) -> int:
        return self._slots

    def running(self) -> frozenset[int]:
        return frozenset(self._children)

    def submit(
        self,
        number: int,
        folder: Path,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        start: Path | None = None,
    ) -> None:
        task = pickled(function, args)
        with _hidden_main(), _for_prepared_parent(self._threads):
            pipe, other = self._context.Pipe()
            device = self._free.pop()
            process = self._context.Process(
                target=run_task,
                args=(other, folder, start, device, self._threads, self._sharing[device]),
                name=f"trial-{number}",
            )
            process.start()
        other.close()
        deadline = float("inf") if self._time_limit is None else time.monotonic() + self._time_limit
        child = _Child(number, process, pipe, device, deadline)
        self._children[number] = child
        with suppress(OSError):  # it died already; what it sent, or its exit status, will say how
            pipe.send_bytes(task)

    def poll(self, deliver: Callable[[Event], None], timeout: float) -> None:
        if not self._children:
            time.sleep(timeout)
            return
        self._pass_on_requests()
        children = {c.process.sentinel: c for c in self._children.values()}
        pipes = {c.pipe: c for c in self._children.values() if c.open}
        until = min(child.deadline for child in children.values()) - time.monotonic()
        ready = wait([*children, *pipes], max(0.0, min(timeout, until)))
        for pipe in pipes.keys() & set(ready):
            self._receive(pipes[pipe], deliver)
        for child in children.values():
            if child.outcome is None and time.monotonic() >= child.deadline:
                child.outcome = Broken(child.number, f"time limit of {self._time_limit:g} s exceeded")
            if child.outcome is None and child.process.sentinel in ready:
                self._receive(child, deliver)  # what it sent before it ended
                child.outcome = child.outcome or self._crash(child)
            if child.outcome is not None:
                self._release(child)
                deliver(child.outcome)

    def stop(self) -> None:
        self._stopping = True

    def kill(self) -> None:
        self._stopping = self._killing = True

    def close(self) -> None:
        atexit.unregister(self.close)
        for child in list(self._children.values()):
            self._release(child)

    def _pass_on_requests(self) -> None:
        for child in self._children.values():
            if self._killing:
                child.outcome = Interrupted(child.number)
                child.deadline = 0.0
            elif self._stopping and not child.asked:
                child.asked = True
                with suppress(OSError):  # it has just ended; what it sent before is still to be received
                    child.pipe.send_bytes(b"stop")

    def _receive(self, child: _Child, deliver: Callable[[Event], None]) -> None:
        try:
            while child.open and child.outcome is None and child.pipe.poll():
                match child.pipe.recv():
                    case ("progress", epoch, epochs, message):
                        deliver(Progress(child.number, epoch, epochs, message))
                    case ("done", value):
                        child.outcome = Done(child.number, value)
                    case ("interrupted",):
                        child.outcome = Interrupted(child.number)
                    case ("unusable", error):
                        child.outcome = Unusable(child.number, error)
                    case ("broken", reason):
                        child.outcome = Broken(child.number, reason)
        except (EOFError, OSError):
            child.open = False
        except Exception as error:  # unpickling what a task returned runs code of the task's author
            child.outcome = Broken(child.number, f"its result cannot be read: {one_line(error)}")

    def _crash(self, child: _Child) -> Event:
        child.process.join()
        code = child.process.exitcode
        if code in (LOST_STATUS, -signal.SIGTERM):  # a machine that shuts down, not the task's fault
            return Interrupted(child.number)
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            return Broken(child.number, f"the process was ended by {name}{hint}")
        return Broken(child.number, f"the process exited with status {code} without a result")

    def _release(self, child: _Child) -> None:
        """End the process, which has nothing left to say, with its own children, and free its slot."""
        pid = child.process.pid
        assert pid is not None, "it was started"
        if child.process.exitcode in (None, LOST_STATUS):
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # it has no session of its own yet, or has just ended
                child.process.kill()
        child.process.join()
        child.process.close()
        child.pipe.close()
        del self._children[child.number]
        self._free.append(child.device)


def pickled(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """A task for another process; StudyError where that could not import it."""
    with _hidden_main():
        try:
            return bytes(ForkingPickler.dumps((function, args)))
        except Exception as error:  # whatever a __reduce__ may raise
            raise StudyError(
                "evaluate",
                "a function and arguments that another process can import",
                f"{function!r} ({one_line(error)})",
                "define it in a module, not in the program that is run",
            ) from error


_patching = threading.Lock()


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Show an empty main module while a child is described, so that multiprocessing neither runs the user's program
    again in the child nor lets anything refer to it."""
    with _patching:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


@contextmanager
def _for_prepared_parent(threads: int) -> Iterator[None]:
    """What the prepared parent inherits when the first submit starts it: the number of threads, and deafness to
    what a terminal sends to all its processes: a Ctrl-C that arrives before it has imported everything, and the end of
    the terminal, before which trials are to save."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
