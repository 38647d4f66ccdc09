"""Writing results: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from detsearch.errors import RecipeError, ResourceError


def make_folder(path: Path) -> None:
    """Make a folder, and those around it, where they are missing; ResourceError where the system does not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        file = next((p for p in (path, *path.parents) if os.path.exists(p) and not os.path.isdir(p)), None)
        reason = error.strerror or str(error)
        # The system's own words mislead here: /proc/x is refused as "No such file or directory".
        found = f"a place where none can be made ({reason})" if file is None else f"{file}, which is a file"
        raise ResourceError(str(path), "a folder, or a place to make one", found, "choose another one") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its name when the block ends well; what was there before stays
    until then. The folder is made. Of several writers of a folder each needs its own `path`.

    ResourceError for whatever the disk refuses.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    make_folder(path.parent)
    try:
        yield partial
        _to_disk(partial)
        os.replace(partial, path)
    except OSError as error:
        hint = "free space, or choose another folder"
        raise ResourceError(str(path), "a file that can be written", error.strerror or str(error), hint) from error
    finally:
        with suppress(OSError):  # gone if all went well; where nothing could be written, its folder may be missing
            partial.unlink()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to fill, which takes its name when the block ends well; else nothing is left of it.

    RecipeError where `path` is there already and no empty folder, ResourceError for whatever the disk refuses.
    """
    path = path.absolute()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        if path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None):
            hint = "choose another one; nothing is overwritten"
            raise RecipeError(str(path), "a new or an empty folder", "one that holds something", hint)
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.rmdir()  # which fails if something has come into it
        partial.rename(path)
    except OSError as error:
        where, reason = str(error.filename or path), error.strerror or str(error)
        raise ResourceError(
            where, "files that can be read and written", reason, "free space, or see to rights"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """Else a power cut may leave the new name with nothing in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace a file by `text` as UTF-8; what that cannot hold, such as the name of a file that is no UTF-8, is escaped
    as JSON does it."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Replace a file by a JSON document."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
