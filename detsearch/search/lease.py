"""Who is at work on a study: owners of leases, and the lock that one coordinator holds on a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from detsearch.errors import StudyError


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, told apart from a later one with the same id by the time it started."""

    host: str
    pid: int
    started: float  # seconds since the epoch

    @classmethod
    def current(cls) -> Self:
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def dead(self) -> bool:
        """Is it certain that this process has ended? Never for one on another host."""
        if self.host != socket.gethostname():
            return False
        try:
            # Linux derives the start time from the boot time, which may be adjusted by fractions of a second.
            return bool(abs(psutil.Process(self.pid).create_time() - self.started) > 2)
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to evaluate a trial until `expires` (seconds since the epoch), renewed while the owner is at it.

    `attempt` counts the starts of the trial, `epoch` the epochs that it had finished when the lease was last written.
    """

    owner: Owner
    expires: float
    attempt: int
    epoch: int = 0

    def live(self, now: float) -> bool:
        return now < self.expires and not self.owner.dead()

    def to_json(self) -> dict[str, Any]:
        owner = {"host": self.owner.host, "pid": self.owner.pid, "started": self.owner.started}
        return {"owner": owner, "expires": self.expires, "attempt": self.attempt, "epoch": self.epoch}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        return cls(Owner(**raw["owner"]), raw["expires"], raw["attempt"], raw["epoch"])


class FolderLock:
    """An exclusive lock that the kernel releases when its process ends, however that ends.

    StudyError, naming the holder, where another process has it.
    """

    def __init__(self, path: Path, owner: Owner) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 200).decode(errors="replace").strip()
            os.close(self._file)
            raise StudyError(
                str(path.parent),
                "a study that nothing else is running",
                f"one that {holder or 'another process'} is running",
                "wait for it or stop it",
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(owner).encode(), 0)

    def release(self) -> None:
        os.close(self._file)
