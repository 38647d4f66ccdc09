"""The ledger's file: optuna's relational storage in one sqlite database, made whole or not at all."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from detsearch.errors import ResourceError, StudyError
from detsearch.search.objective import Objective

DATABASE: Final = "ledger.db"
STUDY: Final = "detsearch"
IDENTITY: Final = "identity"
BUSY_SECONDS: Final = 30  # how long sqlite waits for another writer, such as a dashboard

_MEND: Final = "free space or permit it, then repeat the command"
_OF_THE_MACHINE: Final = (
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY),
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY),
)
"""Primary codes of sqlite's errors that say nothing against the file."""

_DEFECTS: Final = (optuna.exceptions.StorageInternalError, SQLAlchemyError, sqlite3.Error, OSError)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a write that the machine refuses (full disk, no permission) into a ResourceError about `path`."""
    try:
        yield
    except _DEFECTS as error:
        raise ResourceError(str(path), "a place that can be written", _reason(error), _MEND) from error


def create(path: Path, identity: Mapping[str, Any], objectives: Sequence[Objective]) -> None:
    """A new database with its study and identity; it appears under `path` only when it is complete."""
    draft = path.with_suffix(".draft")
    with writing(path):
        draft.unlink(missing_ok=True)
        storage = _storage(draft, "mode=rwc")
        directions = [StudyDirection.MAXIMIZE if o.maximise else StudyDirection.MINIMIZE for o in objectives]
        study = storage.create_new_study(directions, STUDY)
        storage.set_study_user_attr(study, IDENTITY, dict(identity))
        _dispose(storage)
        connection = sqlite3.connect(draft)
        connection.execute("PRAGMA journal_mode=WAL")  # kept in the file; halves the time of a write
        connection.close()
        os.replace(draft, path)


@contextmanager
def opened(path: Path, *, readonly: bool) -> Iterator[tuple[RDBStorage, int, dict[str, Any]]]:
    """Storage, study id and identity of an existing database; StudyError where it is not one of ours, ResourceError
    where the machine does not let it be read."""
    if not path.is_file():
        raise StudyError(str(path.parent), f"the folder of a study, with a {DATABASE}", "none")
    mode = "mode=rw"
    if readonly:
        # A folder that can't be written has no room for the shared index of a WAL database; nobody writes there, so
        # the file can be read as it is.
        mode = "mode=ro" if os.access(path.parent, os.W_OK) else "immutable=1"
    try:
        storage = _storage(path, mode, skip_table_creation=True)
        study = storage.get_study_id_from_name(STUDY)
        identity = storage.get_study_user_attrs(study)[IDENTITY]
    except (*_DEFECTS, KeyError, RuntimeError) as error:
        if _of_the_machine(_root(error)):
            raise ResourceError(str(path), "a ledger that can be read", _reason(error), _MEND) from error
        raise StudyError(str(path), "the ledger of a detsearch study", _reason(error), "use another folder") from error
    try:
        yield storage, study, identity
    finally:
        _dispose(storage)


def first_difference(stored: Any, given: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The first field, as a path such as ``recipe.space[2].depth``, in which two identities differ, with both values
    (None where one of them ends before)."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in [*stored, *(key for key in given if key not in stored)]:
            found = first_difference(stored.get(key), given.get(key), f"{name}.{key}" if name else key)
            if found is not None:
                return found
        return None
    if isinstance(stored, list) and isinstance(given, list):
        for index, (was, now) in enumerate(zip(stored, given, strict=False)):
            found = first_difference(was, now, f"{name}[{index}]")
            if found is not None:
                return found
        index = min(len(stored), len(given))
        was, now = (values[index] if index < len(values) else None for values in (stored, given))
        return None if len(stored) == len(given) else (f"{name}[{index}]", was, now)
    return None if stored == given else (name, stored, given)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON will give them back (tuples become lists)."""
    result: dict[str, Any] = json.loads(json.dumps(values))
    return result


def _storage(path: Path, mode: str, *, skip_table_creation: bool = False) -> RDBStorage:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(path.absolute()))}?{mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            check_same_thread=False,
        )
        # With WAL a killed process loses nothing and a power cut at most the last facts, never an earlier one before
        # a later one; waiting for the disk each time would cost more than all the rest.
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it greets every new study on stderr
    return RDBStorage(f"sqlite:///{path}", {"creator": connect}, skip_table_creation=skip_table_creation)


def _dispose(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _root(error: BaseException) -> BaseException:
    """The error of the database or the system, without the layers around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    original: BaseException = getattr(error, "orig", None) or error
    return original


def _of_the_machine(error: BaseException) -> bool:
    """Whether an error is the machine's (a full disk, no permission), and the file may be sound."""
    return isinstance(error, OSError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_MACHINE


def _reason(error: BaseException) -> str:
    """What the database or the system said, in a line."""
    original = _root(error)
    return str(original).partition("\n")[0] or type(original).__name__
