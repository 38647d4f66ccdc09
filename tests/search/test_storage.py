"""The ledger's database and a machine that refuses."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from detsearch.errors import ResourceError, StudyError
from detsearch.search import storage
from detsearch.search.objective import Objective
from detsearch.search.storage import DATABASE, create, opened

OBJECTIVES = [Objective("ap", True)]


def _read(path: Path) -> dict[str, object]:
    with opened(path, readonly=True) as (_, _, identity):
        return identity


REFUSALS = {
    "disk I/O error": sqlite3.SQLITE_IOERR | 18 << 8,  # of a full disk that has no room for the shared index
    "database or disk is full": sqlite3.SQLITE_FULL,
    "unable to open database file": sqlite3.SQLITE_CANTOPEN,
    "database is locked": sqlite3.SQLITE_BUSY,
}


def test_what_the_machine_refuses_is_not_said_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tmp_path / DATABASE, {"a": 1}, OBJECTIVES)

    def refuse(message: str) -> None:
        error = sqlite3.OperationalError(message)
        error.sqlite_errorcode = REFUSALS[message]
        raise RuntimeError("a layer around it") from error

    for message in REFUSALS:
        with monkeypatch.context() as patch:
            patch.setattr(storage, "_storage", lambda *_, message=message, **__: refuse(message))
            with pytest.raises(ResourceError, match=f"{message}; free space or permit it"):
                _read(tmp_path / DATABASE)
    assert _read(tmp_path / DATABASE) == {"a": 1}


def test_another_database_and_a_damaged_one_are_no_ledgers(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    with sqlite3.connect(path) as connection:
        connection.execute("create table other (x)")
    with pytest.raises(StudyError, match="the ledger of a detsearch study"):
        _read(path)
    path.unlink()
    create(path, {}, OBJECTIVES)
    whole = path.read_bytes()
    for content in (b"", b"this is no database" * 99, whole[: len(whole) // 2], whole[:1000]):
        path.write_bytes(content)
        with pytest.raises(StudyError, match="the ledger of a detsearch study"):
            _read(path)


def test_a_folder_whose_name_is_no_utf_8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff?#%41"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    create(folder / DATABASE, {"a": 1}, OBJECTIVES)
    assert _read(folder / DATABASE) == {"a": 1}
    assert [path.name for path in folder.iterdir() if path.suffix == ".db"] == [DATABASE]
