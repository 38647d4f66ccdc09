"""Where trials run. A study hands tasks to an Executor and hears events; it never knows whether they run here, in
processes or on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from detsearch.errors import DetsearchError, ResourceError

LOG: Final = "log.txt"
"""Where, in its folder, a task's output and traceback go."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A running task says how far it is: `epoch` of `epochs` are done."""

    number: int
    epoch: int
    epochs: int
    message: str


@dataclass(frozen=True, slots=True)
class Done:
    """A task returned `value`."""

    number: int
    value: Any


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A task saved its state and ended early, or was killed on request: it can be run again."""

    number: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A task ended without a value: it raised, crashed, or exceeded its time."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """A task raised `error`: the machine lacks something (disk space, weights), which is no fault of the task. Once
    that is mended it can be run again."""

    number: int
    error: ResourceError


Event: TypeAlias = Progress | Done | Interrupted | Broken | Unusable


class Executor(Protocol):
    """Runs tasks, at most one in each slot. Used from one thread.

    Whatever a task does ends in exactly one Done, Interrupted, Broken or Unusable for its number; it never raises here.
    """

    def slots(self) -> int:
        """How many tasks can run at once."""
        ...

    def running(self) -> frozenset[int]:
        """Numbers of the tasks that have not ended."""
        ...

    def submit(
        self,
        number: int,
        folder: Path,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        start: Path | None = None,
    ) -> None:
        """Start ``function(*args, context)`` with a TrialContext for `folder` and `start`, in a free slot."""
        ...

    def poll(self, deliver: Callable[[Event], None], timeout: float) -> None:
        """Call `deliver` for each event there is; where there is none, wait at most `timeout` seconds for one."""
        ...

    def stop(self) -> None:
        """Ask all tasks, later ones included, to save and end (they become Interrupted). Safe in a signal handler."""
        ...

    def kill(self) -> None:
        """End all tasks now: they become Interrupted at the next poll. For a signal handler."""
        ...

    def close(self) -> None:
        """Kill what still runs and release everything. The executor can't be used afterwards."""
        ...


def one_line(error: BaseException) -> str:
    """An exception as a reason, on one line of at most 500 characters: its message, after its type unless it is one of
    detsearch, whose messages stand alone."""
    text = str(error) if isinstance(error, DetsearchError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:500].rstrip(": ")
