"""Ctrl-C as a request: the first one lets the run save its state, the second one ends it at once."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from detsearch.signals import on_signals


class Stop:
    """While entered, what asks the process to end (`on_signals`) sets a flag; `requested` tells."""

    def __init__(self) -> None:
        self._asked = False
        self._entered = ExitStack()

    def requested(self) -> bool:
        return self._asked

    def __enter__(self) -> Self:
        self._entered.enter_context(on_signals(self._ask))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.close()

    def _ask(self) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
