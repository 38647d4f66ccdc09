"""One task at a time in the calling thread: for tests, debuggers and tiny spaces."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from detsearch.errors import ResourceError
from detsearch.search.execution.base import LOG, Broken, Done, Event, Interrupted, Progress, Unusable, one_line
from detsearch.search.trial import TrialContext, TrialInterrupted


class InlineExecutor:
    """Runs a task inside `poll`. A task that never returns or crashes takes the caller with it; `kill`, from a signal
    handler, raises KeyboardInterrupt inside the task."""

    def __init__(self, device: str = "cpu", threads: int = 1) -> None:
        self._device, self._threads = device, threads
        self._stopping = self._killing = False
        self._task: tuple[int, Path, Path | None, Callable[..., Any], tuple[Any, ...]] | None = None

    def slots(self) -> int:
        return 1

    def running(self) -> frozenset[int]:
        return frozenset() if self._task is None else frozenset({self._task[0]})

    def submit(
        self,
        number: int,
        folder: Path,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        start: Path | None = None,
    ) -> None:
        assert self._task is None, "one task at a time"
        folder.mkdir(parents=True, exist_ok=True)
        self._task = (number, folder, start, function, args)

    def poll(self, deliver: Callable[[Event], None], timeout: float) -> None:  # noqa: ARG002  nothing to wait for
        if self._task is None:
            return
        number, folder, start, function, args = self._task
        context = TrialContext(
            folder=folder,
            start=start,
            device=self._device,
            threads=self._threads,
            report=lambda epoch, epochs, message: deliver(Progress(number, epoch, epochs, message)),
            should_stop=lambda: self._stopping,
        )
        event: Event
        try:
            event = Done(number, function(*args, context))
        except TrialInterrupted:
            event = Interrupted(number)
        except KeyboardInterrupt:
            if not self._killing:
                raise
            event = Interrupted(number)
        except Exception as error:  # a task may raise anything, and it must only end itself
            with suppress(OSError), (folder / LOG).open("a") as log:  # a full disk may be what ended it
                log.write(traceback.format_exc())
            event = Unusable(number, error) if isinstance(error, ResourceError) else Broken(number, one_line(error))
        self._task = None
        deliver(event)

    def stop(self) -> None:
        self._stopping = True

    def kill(self) -> None:
        self._stopping = self._killing = True
        if self._task is not None:
            raise KeyboardInterrupt

    def close(self) -> None:
        self._task = None
