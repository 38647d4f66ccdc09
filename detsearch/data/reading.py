"""Reading annotation files from outside: plain files, of a size that can be meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from detsearch.errors import DataError

MAX_SET_BYTES: Final = 4 << 30
"""Annotations of a whole set in one file; those of COCO have 0.5 GB, those of BDD100K with lanes 1.3."""
MAX_IMAGE_BYTES: Final = 32 << 20
"""Annotations of one image."""


def read_bytes(path: Path, expected: str, limit: int) -> bytes:
    """What the file holds. DataError, saying that `expected` was, where it is missing, no plain file (opening a pipe
    would wait for ever) or longer than `limit` bytes."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(str(path), expected, "no plain file")
        if path.stat().st_size > limit:
            raise DataError(str(path), f"{expected} of at most {limit >> 20} MiB", f"{path.stat().st_size >> 20} MiB")
        return path.read_bytes()
    except OSError as problem:
        raise DataError(str(path), expected, problem.strerror or type(problem).__name__) from problem


def read_text(path: Path, expected: str, limit: int) -> str:
    """The same as text in UTF-8; DataError also where it is none."""
    try:
        return read_bytes(path, expected, limit).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(str(path), f"{expected} in UTF-8", f"byte {problem.start} that is not") from problem


def read_json(path: Path, form: str, limit: int = MAX_SET_BYTES) -> Any:
    """The value in a JSON file of this form; DataError where there is none."""
    content = read_bytes(path, f"a {form} file", limit)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise DataError(str(path), form, f"what is no JSON ({problem})") from problem


def brief(value: object) -> str:
    """How a value from a file is shown in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
