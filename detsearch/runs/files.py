"""Writing results: whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from detsearch.errors import ResourceError


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically, its folder made if need be; ResourceError if that cannot be done."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        hint = "free space, or choose another folder"
        raise ResourceError(str(path), "a file that can be written", error.strerror, hint) from None
    finally:
        if partial.exists():
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a JSON document."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
