"""Trials on the nodes of a Ray cluster that runs already.

Each slot is an actor that holds the CPUs and GPUs of one trial on some node and runs it there as `ProcessExecutor` runs
it here: in a process of its own, with its log, its time limit, and an end that touches nothing else. A node that dies
takes its trials along; they are run again, from what they saved, wherever there is room. The study's folder must be
one that every node sees under the same path.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Final

from detsearch.errors import ResourceError
from detsearch.search.execution.base import Event, Interrupted, Progress, Unusable
from detsearch.search.execution.processes import ProcessExecutor, pickled

try:
    import ray
    from ray._private import services
    from ray.exceptions import RayActorError
except ImportError as _missing:
    raise ResourceError("executor ray", "the package ray", "none", 'pip install "detsearch[ray]"') from _missing

PATIENCE: Final = 600.0
"""Seconds without a node on which anything can run, after which a study is given up (and can be resumed)."""
ANSWER: Final = 5.0
"""Seconds within which a cluster must answer at its address."""
LISTENING: Final = 0.5
"""Seconds that a host waits for news before it answers that there are none."""


class Host:
    """One slot on a node, as an actor. Its methods are called one after the other."""

    def __init__(self, threads: int, sharing: int, time_limit: float | None, preload: Sequence[str]) -> None:
        gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU")
        self._executor = ProcessExecutor(
            ["cuda:0" if gpus else "cpu"], threads=threads, sharing=sharing, time_limit=time_limit, preload=preload
        )

    def ready(self) -> None:
        """Answers once the actor has its place."""

    def run(self, number: int, folder: Path, task: bytes, start: Path | None) -> list[Event]:
        """Start a task whose folder has been made; what to deliver if that cannot be."""
        if not folder.is_dir():
            error = ResourceError(
                str(folder), "a folder that every node of the cluster sees", "none", "put --out on a shared file system"
            )
            return [Unusable(number, error)]
        function, args = ForkingPickler.loads(task)
        self._executor.submit(number, folder, function, args, start=start)
        return []

    def listen(self) -> list[Event]:
        """News of the task."""
        events: list[Event] = []
        self._executor.poll(events.append, LISTENING)
        return events

    def stop(self) -> None:
        """Ask the task to save and end."""
        self._executor.stop()


@dataclass(slots=True)
class _Slot:
    """`answer` is what its host was asked last: `ready`, `run` or `listen`; None where it has nothing to do."""

    host: Any
    answer: Any
    ready: bool = False
    number: int | None = None
    asked: bool = False


class RayExecutor:
    """Runs `slots` tasks at once, each on `cpus` CPUs and `gpus` GPUs (shares of one as well) of one node.

    `address` is that of the cluster; None, or "auto", for the one that RAY_ADDRESS names, or else that this machine
    belongs to. `threads`, `time_limit` and `preload` as in `ProcessExecutor`, whose refusals hold here too.

    ResourceError, within seconds, where there is no cluster, or none that has room for so many tasks.
    """

    def __init__(
        self,
        slots: int = 1,
        *,
        address: str | None = None,
        cpus: float = 1,
        gpus: float = 0,
        threads: int = 1,
        time_limit: float | None = None,
        preload: Sequence[str] = (),
    ) -> None:
        assert slots > 0, "something runs"
        self._joined = not ray.is_initialized()
        if self._joined:
            _join(address)
        try:
            sharing = _sharing(slots, {"CPU": cpus, "GPU": gpus})
        except ResourceError:
            self._leave()
            raise
        # No restarts by Ray: a new host knows nothing of the task of the old one, and this end must hear that it is
        # gone.
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        kind = ray.remote(Host).options(**options)
        self._open = lambda: kind.remote(threads, sharing, time_limit, tuple(preload))
        self._slots = [self._new() for _ in range(slots)]
        self._stopping = self._killing = False
        self._alone_since: float | None = None

    def slots(self) -> int:
        """How many hosts have their place on a node by now."""
        self._look(0.0)
        return sum(slot.ready for slot in self._slots)

    def running(self) -> frozenset[int]:
        return frozenset(slot.number for slot in self._slots if slot.number is not None)

    def submit(
        self,
        number: int,
        folder: Path,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        start: Path | None = None,
    ) -> None:
        slot = next(slot for slot in self._slots if slot.ready and slot.number is None)
        task = pickled(function, args)
        folder.mkdir(parents=True, exist_ok=True)
        slot.number, slot.asked = number, False
        slot.answer = slot.host.run.remote(number, folder, task, start)

    def poll(self, deliver: Callable[[Event], None], timeout: float) -> None:
        for slot in self._slots:
            if slot.number is None:
                continue
            if self._killing:
                self._lose(slot, deliver)
            elif self._stopping and not slot.asked:
                slot.asked = True
                slot.host.stop.remote()
        if not self._hear(deliver, 0.0):
            self._hear(deliver, timeout)
        self._require_hosts()

    def stop(self) -> None:
        self._stopping = True

    def kill(self) -> None:
        self._stopping = self._killing = True

    def close(self) -> None:
        for slot in self._slots:
            ray.kill(slot.host)  # its processes end with it
        self._slots = []
        self._leave()

    def _leave(self) -> None:
        if self._joined:
            ray.shutdown()

    def _new(self) -> _Slot:
        host: Any = self._open()  # type: ignore[no-untyped-call]
        return _Slot(host, host.ready.remote())

    def _look(self, timeout: float) -> list[_Slot]:
        """The slots whose host has answered, after waiting for the first; those that have now their place are ready."""
        asked = {slot.answer: slot for slot in self._slots if slot.answer is not None}
        if not asked:
            time.sleep(timeout)
            return []
        done, waiting = ray.wait(list(asked), timeout=timeout)
        more, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0.0) if waiting else ([], [])
        answered = [asked[answer] for answer in (*done, *more)]
        for slot in answered:
            if not slot.ready:
                slot.ready = self._answer(slot) is not None
        return [slot for slot in answered if slot.number is not None]

    def _hear(self, deliver: Callable[[Event], None], timeout: float) -> bool:
        """Deliver what hosts have to tell, waiting for the first; was there anything?"""
        heard = False
        for slot in self._look(timeout):
            number = slot.number
            events = self._answer(slot)
            if events is None:
                heard = True
                assert number is not None
                deliver(Interrupted(number))
                continue
            if all(isinstance(event, Progress) for event in events):
                slot.answer = slot.host.listen.remote()
            else:
                slot.number = None
            heard |= bool(events)
            for event in events:
                deliver(event)
        return heard

    def _answer(self, slot: _Slot) -> list[Event] | None:
        """What a slot's host has answered; None, and a new host in the slot, where it is gone with its node."""
        answer, slot.answer = slot.answer, None
        try:
            return ray.get(answer) or []
        except RayActorError:
            self._replace(slot)
            return None

    def _lose(self, slot: _Slot, deliver: Callable[[Event], None]) -> None:
        number = slot.number
        assert number is not None
        self._replace(slot)
        deliver(Interrupted(number))

    def _replace(self, slot: _Slot) -> None:
        ray.kill(slot.host)  # it may only have been out of reach
        self._slots[self._slots.index(slot)] = self._new()
        slot.number = None

    def _require_hosts(self) -> None:
        """ResourceError once nothing could run for long."""
        if any(slot.ready for slot in self._slots):
            self._alone_since = None
            return
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        if now - self._alone_since > PATIENCE:
            found = f"none for {PATIENCE / 60:g} minutes"
            raise ResourceError("the Ray cluster", "a node with room for a trial", found, "repeat the command later")


def _join(address: str | None) -> None:
    """Connect to a cluster; ResourceError where there is none."""
    named = address or "auto"
    if named == "auto":
        named = os.environ.get("RAY_ADDRESS") or named  # as Ray has it
    try:
        # Where nothing listens `ray.init` tries again for minutes, each time with lines of its own.
        socket.create_connection(_head(named), ANSWER).close()
        ray.init(address=named, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        found = (isinstance(error, OSError) and error.strerror) or str(error).partition("\n")[0]
        hint = "`ray start --head` makes one of this machine; --address names another"
        where = "this machine" if named == "auto" else named
        raise ResourceError(f"Ray at {where}", "a running cluster", found, hint) from error


def _head(address: str) -> tuple[str, int]:
    """Host and port of a cluster as `ray.init` finds them. ValueError for what is no address, ConnectionError where
    this machine belongs to none."""
    place = address.partition("://")[2] or services.canonicalize_bootstrap_address(address)
    if place is None:
        raise ValueError(f"{address!r}, which makes a new one")
    host, port = services.extract_ip_port(place)
    return host, port


def _sharing(slots: int, each: Mapping[str, float]) -> int:
    """How many of the slots may share a GPU, or where they have none the memory of a node. ResourceError unless the
    living nodes have room for all slots at once."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    rooms = [_fitting(node, each) for node in nodes]
    room = sum(rooms)
    if room >= slots:
        return min(slots, max(1, _per_gpu(each["GPU"])) if each["GPU"] else max(rooms))
    wanted = " and ".join(f"{amount:g} {name}s" for name, amount in each.items() if amount)
    has = "; ".join(", ".join(f"{node.get(name, 0):g} {name}s" for name in each) for node in nodes) or "no node"
    expected = f"room for {slots} trials of {wanted} each"
    raise ResourceError(
        "the Ray cluster", expected, f"{room} on {has}", "lower execution.workers, execution.cpus or execution.gpus"
    )


def _fitting(node: Mapping[str, float], each: Mapping[str, float]) -> int:
    """How many slots fit on a node; of a GPU no share may span two."""
    counts = []
    for name, amount in each.items():
        has = node.get(name, 0.0)
        if name == "GPU" and 0 < amount < 1:
            counts.append(math.floor(has) * _per_gpu(amount))
        elif amount:
            counts.append(math.floor(has / amount + 1e-9))
    return min(counts, default=0)


def _per_gpu(amount: float) -> int:
    """How many slots of so many GPUs each fit on one GPU."""
    return math.floor(1 / amount + 1e-9)
