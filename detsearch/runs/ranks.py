"""One task in a process for each of several devices, which end together."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from detsearch.errors import DetsearchError, TrainingError, UserError
from detsearch.search.execution.base import Broken, Done, Event, Interrupted, Progress, Unusable
from detsearch.search.execution.processes import ProcessExecutor
from detsearch.search.trial import TrialContext, TrialInterrupted
from detsearch.training.ranks import Ranks

FOLDER: Final = "ranks"
"""Where, in the folder of a task, the logs of its processes are."""
PRELOAD: Final = ("detsearch.runs.fit",)
GRACE: Final = 5.0
"""Seconds after the first failure in which others are heard: the one that is the reason need not come first."""
ECHOES: Final = ("gloo", "nccl", "connection", "processgroup")
"""In what processes say that have lost another one."""

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Refused:
    """A task ended with an error that means something to the user."""

    error: DetsearchError


def on_all(
    function: Callable[..., Any], args: tuple[Any, ...], devices: Sequence[str], context: TrialContext, *, tell: Tell
) -> Any:
    """Call ``function(*args, ranks, meeting, context)`` in a process for each of `devices`, and give what the first
    one's returns; `ranks` tells each which it is, `meeting` is for `training.ranks.joined`, and its context has a
    folder for its log. Reports of the first one go to `tell`. A request to stop reaches all.

    When one fails all are ended: with its UserError or TrainingError, or a TrainingError that says how it ended.
    TrialInterrupted if they were stopped.
    """
    count = len(devices)
    ended: dict[int, Event] = {}

    def hear(event: Event) -> None:
        if not isinstance(event, Progress):
            ended[event.number] = event
        elif event.number == 0:
            tell(event.epoch, event.epochs, event.message)

    threads = max(1, context.threads // count)
    # Processes of one task are no trials beside each other.
    executor = ProcessExecutor(devices, threads=threads, sharing=context.sharing, preload=PRELOAD)
    with tempfile.TemporaryDirectory(prefix="detsearch-") as meeting, closing(executor):
        for number in range(count):
            task = function, args, Ranks(tuple(devices), number), Path(meeting) / "ranks"
            executor.submit(number, context.folder / FOLDER / str(number), as_one, task)
        asked, until = False, float("inf")
        while len(ended) < count and time.monotonic() < until:
            if not asked and context.should_stop():
                asked = True
                executor.stop()
            executor.poll(hear, 0.2)
            if until == float("inf") and any(map(_failed, ended.values())):
                until = time.monotonic() + GRACE
    failures = [event for event in ended.values() if _failed(event)]
    if failures:
        raise _reason(failures, count)
    if any(isinstance(event, Interrupted) for event in ended.values()):
        raise TrialInterrupted(f"stopped, on all {count} devices")
    first = ended[0]
    assert isinstance(first, Done)
    return first.value


def as_one(
    function: Callable[..., Any], args: tuple[Any, ...], ranks: Ranks, meeting: Path, context: TrialContext
) -> Any:
    """What runs in each process: errors that a user can read come back as they are."""
    try:
        return function(*args, ranks, meeting, context)
    except (UserError, TrainingError) as error:
        traceback.print_exc()  # into its log
        return Refused(error)


def _failed(event: Event) -> bool:
    return isinstance(event, Broken | Unusable) or (isinstance(event, Done) and isinstance(event.value, Refused))


def _reason(failures: Sequence[Event], count: int) -> DetsearchError:
    """The failure to which others are due: one with words for the user, or else one that is no echo."""
    for event in failures:
        if isinstance(event, Done):
            error: DetsearchError = event.value.error
            return error
        if isinstance(event, Unusable):
            return event.error
    broken = [event for event in failures if isinstance(event, Broken)]
    own = [event for event in broken if not any(echo in event.reason.lower() for echo in ECHOES)]
    event = (own or broken)[0]
    return TrainingError(f"process {event.number + 1} of {count} that train together: {event.reason}")
