"""What runs inside the process of one trial."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Final

from detsearch.errors import ResourceError
from detsearch.search.execution.base import LOG, one_line
from detsearch.search.trial import TrialContext, TrialInterrupted

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def run_task(pipe: Connection, folder: Path, start: Path | None, device: str, threads: int, sharing: int) -> None:
    """Receive ``(function, args)`` from the pipe, call it, and send what came of it.

    The messages are ("progress", epoch, epochs, message) and at last one of ("done", value), ("interrupted",),
    ("unusable", error), ("broken", reason). The only message from the other end is a request to stop; its end of file
    means that the coordinator is gone, and then this process and its children end at once.
    """
    os.setsid()  # Ctrl-C in the terminal is for the coordinator; and one signal reaches this process's own children
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _log_to(folder / LOG)
        lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        pipe.recv_bytes()  # so that the other end has sent it before this one closes
        reason = error.strerror or str(error)
        pipe.send(("unusable", ResourceError(str(folder), "a folder that can be written", reason)))
        return
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    task = pipe.recv_bytes()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(pipe, stop), daemon=True).start()
    # The process of a dead coordinator may still be on its way out: one process in a folder at a time.
    fcntl.flock(lock, fcntl.LOCK_EX)
    sending = threading.Lock()

    def send(*message: Any) -> None:
        with sending:
            pipe.send(message)

    context = TrialContext(
        folder=folder,
        start=start,
        device=device,
        threads=threads,
        sharing=sharing,
        report=lambda epoch, epochs, message: send("progress", epoch, epochs, message),
        should_stop=stop.is_set,
    )
    try:
        function, args = ForkingPickler.loads(task)
        message: tuple[Any, ...] = ("done", function(*args, context))
    except TrialInterrupted:
        message = ("interrupted",)
    except ResourceError as error:
        _log_error()
        message = ("unusable", error)
    except BaseException as error:  # a task may raise anything, and all of it belongs into its log
        _log_error()
        message = ("broken", one_line(error))
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    try:
        send(*message)
    except Exception as error:  # a value that cannot be pickled
        _log_error()
        send("broken", one_line(error))


def _log_error() -> None:
    with suppress(OSError):  # on a full disk the message to the coordinator counts, not the log
        traceback.print_exc()


def _listen(pipe: Connection, stop: threading.Event) -> None:
    try:
        while True:
            pipe.recv_bytes()
            stop.set()
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _log_to(path: Path) -> None:
    """Everything that this process prints, in Python or below it, goes to the end of a file."""
    log = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
