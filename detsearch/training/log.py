"""The log of a training: one JSON object a line, mostly one line a finished epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detsearch.errors import ResourceError
from detsearch.files import write_text


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line; ResourceError if it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise ResourceError(str(path), "a log that can be written", error.strerror) from error


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines; none if there is no file. A line that a kill tore is left out."""
    records: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
    return records


def trim(path: Path, last: int, *, by: str = "epoch") -> None:
    """Drop what a killed run logged after the `last` epoch (or whatever it counts `by`) of the state that is gone on
    from: it will be logged again."""
    if not path.exists():
        return
    _write(path, [record for record in read(path) if record.get(by, 0) <= last])


def copy(source: Path, path: Path) -> None:
    """Begin a log with the lines of another, if there is one."""
    if source.exists():
        _write(path, read(source))


def _write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def describe(record: Mapping[str, Any], epochs: int) -> str:
    """A record as a line for people."""
    losses = ", ".join(f"{name} {value:.4g}" for name, value in record["losses"].items())
    text = f"epoch {record['epoch']}/{epochs}, lr {record['lr']:.3g}, loss {record['loss']:.4g} ({losses})"
    return text + "".join(f", {name} {value:.4g}" for name, value in record.get("metrics", {}).items())
