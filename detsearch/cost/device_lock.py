"""Who may use a device now: trainers together, one step at a time (`shared`), or one measurer alone (`exclusive`).

A measurement is worth nothing while something trains on the same device, and training must not stop for longer than a
measurement takes. So a trainer holds the lock for one step and gives it back; a measurer takes it alone.

Two files per device, locked with flock, which the kernel releases when a process dies, however it dies:

* the *lock*: shared holders together, or one exclusive holder;
* the *turnstile*, which everyone passes before the lock. An exclusive holder keeps it from the moment it begins to
  wait, so that new steps queue behind it and overlapping shared holders cannot starve it.

The files lie in a folder of this user: ``$DETSEARCH_LOCK_DIR``, or ``detsearch-<uid>`` in the temporary folder.
Processes of other users, in other containers, or with another temporary folder are not held back.

Uncontended, a shared hold costs some ten microseconds. Holding again in the same thread what it holds already is free.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from detsearch.errors import ResourceError

FOLDER_VARIABLE: Final = "DETSEARCH_LOCK_DIR"

_mine = threading.local()
"""Per thread: `held`, device key -> is it held alone?"""

_open_files: set[int] = set()


def _forget_after_fork() -> None:
    """A child must not keep its parent's locks alive: it closes its copies, which does not release them."""
    for file in _open_files:
        os.close(file)
    _open_files.clear()
    _mine.__dict__.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


@contextmanager
def shared(device: str) -> Iterator[None]:
    """Use `device` beside other shared holders; waits while someone holds it, or waits for it, alone.

    ResourceError if the folder for the lock files cannot be used.
    """
    key, held = _key(device), _held()
    if key in held:
        yield
        return
    with _locked(key, "turnstile"):
        lock = _acquire(key, "lock", fcntl.LOCK_SH)
    held[key] = False
    try:
        yield
    finally:
        held.pop(key, None)
        _release(lock)


@contextmanager
def exclusive(device: str) -> Iterator[None]:
    """Use `device` alone; waits for the steps under way, and holds back all later ones meanwhile.

    ResourceError if the folder for the lock files cannot be used. A thread that holds the device shared must not ask
    for it: it would wait for itself.
    """
    key, held = _key(device), _held()
    if held.get(key):
        yield
        return
    assert key not in held, f"exclusive({device!r}) inside shared({device!r}) would wait for itself"
    with _locked(key, "turnstile"), _locked(key, "lock"):
        held[key] = True
        try:
            yield
        finally:
            held.pop(key, None)


@contextmanager
def _locked(key: str, which: str) -> Iterator[None]:
    file = _acquire(key, which, fcntl.LOCK_EX)
    try:
        yield
    finally:
        _release(file)


def _acquire(key: str, which: str, how: int) -> int:
    # A file of its own for every hold: flock belongs to the open file, so that threads exclude each other as well.
    path = os.path.join(_folder(), f"{key}.{which}")
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ResourceError(path, "a file that this user can write", error.strerror, _HINT) from error
    _open_files.add(file)
    try:
        fcntl.flock(file, how)
    except BaseException:  # Ctrl-C while waiting
        _release(file)
        raise
    return file


def _release(file: int) -> None:
    if file in _open_files:  # else this is a child, forked inside the hold
        _open_files.discard(file)
        os.close(file)


def _held() -> dict[str, bool]:
    held: dict[str, bool] | None = getattr(_mine, "held", None)
    if held is None:
        held = _mine.held = {}
    return held


def _key(device: str) -> str:
    """The device as a file name. CUDA devices are numbered as the machine does, not as CUDA_VISIBLE_DEVICES does."""
    kind, _, index = device.partition(":")
    if kind == "cuda":
        visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
        number = int(index or "0")
        index = visible[number] if number < len(visible) else str(number)
    return re.sub(r"[^A-Za-z0-9-]", "_", f"{kind}-{index}" if index else kind)


_HINT: Final = f"set {FOLDER_VARIABLE} to a folder that only you can write"
_checked: set[str] = set()


def _folder() -> str:
    named = os.environ.get(FOLDER_VARIABLE)
    folder = named or os.path.join(tempfile.gettempdir(), f"detsearch-{os.getuid()}")
    if folder not in _checked:
        _check(Path(folder))
        _checked.add(folder)
    return folder


def _check(folder: Path) -> None:
    """Make the folder; refuse one that another user prepared in a temporary folder that all can write."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ResourceError(str(folder), "a folder for lock files", error.strerror, _HINT) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ResourceError(str(folder), "a folder that belongs to this user", "another's, or a link", _HINT)
