"""Where words go: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from detsearch.errors import ResourceError, printable


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich's own ends the program with status 1


stdout = _Console(highlight=False, soft_wrap=True)
stderr = _Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str = "") -> None:
    """A line of the result."""
    with _written():
        stdout.print(printable(text), markup=False)


def show_table(table: Table) -> None:
    """A table of the result."""
    with _written():
        stdout.print(table)


def log(text: str, *, error: bool = False) -> None:
    """A line about the run."""
    stderr.print(printable(text), markup=False, style="bold red" if error and stderr.is_terminal else None)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """A run in `folder` that saves when it is interrupted: how it goes on, and exit status 130."""
    from detsearch.search.trial import TrialInterrupted

    try:
        yield
    except TrialInterrupted as stopped:
        log(f"detsearch: {stopped}; saved in {folder}; repeat the command to go on")
        raise typer.Exit(130) from None


def print_json(value: Any) -> None:
    """The result for a program: one JSON document and nothing else. Numbers that JSON lacks become null."""
    # In ASCII, as names of files and classes may hold what no encoding can write or a terminal would obey.
    with _written():
        stdout.file.write(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")
        stdout.file.flush()


def discard_output() -> None:
    """Let what is still to be written to standard output go nowhere: its flush at the end would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _written() -> Iterator[None]:
    """ResourceError where the system refuses a part of the result."""
    try:
        yield
    except BrokenPipeError:  # its reader has had enough; with the error's number typer would end the program itself
        raise BrokenPipeError from None
    except OSError as error:
        discard_output()
        raise ResourceError("standard output", "a place that can be written", error.strerror or str(error)) from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def quantity(value: float) -> str:
    """A large number with its prefix: 7.16 G, 32.2 M, 640."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g} {prefix}"
    return f"{value:.4g}"
