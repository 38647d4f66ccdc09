"""How far a training is, for people: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainingProgress(Protocol):
    """Entered when the training starts and left when it ends, however it ends."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def start(self, done: int, steps: int) -> None:
        """`done` of `steps` optimiser steps are behind (more than 0 where a training is resumed)."""
        ...

    def advance(self, done: int) -> None:
        """After every step."""
        ...

    def say(self, message: str) -> None:
        """Now and then: loss, learning rate, accuracy."""
        ...


class SilentProgress:
    """Nobody looks."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, done: int, steps: int) -> None:
        pass

    def advance(self, done: int) -> None:
        pass

    def say(self, message: str) -> None:
        pass


class BarProgress:
    """A bar with the time left; the last message stands beside it."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, done: int, steps: int) -> None:
        self._task = self._bar.add_task("", total=steps, completed=done)

    def advance(self, done: int) -> None:
        self._bar.update(self._task, completed=done)

    def say(self, message: str) -> None:
        self._bar.update(self._task, description=message)


class LineProgress:
    """One plain line per message, with the steps done and the time left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, done: int, steps: int) -> None:
        self._first = self._done = done
        self._steps, self._began = steps, self._clock()
        self._said = ""

    def advance(self, done: int) -> None:
        self._done = done

    def say(self, message: str) -> None:
        if message == self._said:  # the last step of an epoch may be due for a report on both accounts
            return
        self._said = message
        left = "unknown"
        if self._done > self._first:
            per_step = (self._clock() - self._began) / (self._done - self._first)
            left = str(timedelta(seconds=round(per_step * (self._steps - self._done))))
        line = f"step {self._done}/{self._steps}, left {left}: {message}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def progress_on(console: Console) -> TrainingProgress:
    """The progress that suits where `console` writes."""
    return BarProgress(console) if console.is_terminal else LineProgress(console)
