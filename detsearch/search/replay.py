"""Studies without trainings: the loop of `study.run_study` on a book in memory, in simulated time.

With `cost` and `evaluate` from a recorded table (`table.Table`) a whole search takes a moment and writes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from detsearch.arch.code import format_detector
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import StudyError
from detsearch.search.execution.base import Broken, Done, Event, Interrupted, one_line
from detsearch.search.objective import Objective
from detsearch.search.study import Ending, Search, added_epochs, counts, run_study
from detsearch.search.trial import Proposal, Trial, TrialContext, TrialState, waiting
from detsearch.types import CostMetrics, Fidelity, Metrics

BEGIN: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""When simulated time begins."""


class MemoryBook:
    """A study's trials in memory only. `clock` gives seconds since its begin, `name` the code of a spec."""

    def __init__(
        self, objectives: Sequence[Objective], clock: Callable[[], float], *, name: Callable[[DetectorSpec], str]
    ) -> None:
        self.objectives = tuple(objectives)
        self._clock, self._name = clock, name
        self._trials: list[Trial] = []

    def trials(self) -> list[Trial]:
        return list(self._trials)

    def trial_folder(self, number: int) -> Path:
        return Path(f"{number:04d}")

    def add(self, proposal: Proposal, *, fidelity: Fidelity, seed: int) -> Trial:
        """StudyError for one that inherits weights: there are none, and no table has its figures."""
        if proposal.inherits is not None:
            found = f"one that begins with the weights of trial {proposal.inherits}"
            raise StudyError("a replayed study", "trainings from scratch, as tables hold them", found)
        code = self._name(proposal.spec)
        trial = waiting(proposal, number=len(self._trials), code=code, fidelity=fidelity, seed=seed)
        self._trials.append(trial)
        return trial

    def lose_cost(self, number: int) -> Trial:
        return self._trials[number]

    def record_cost(self, number: int, cost: CostMetrics) -> Trial:
        return self._update(number, cost=cost)

    def start(self, number: int) -> Trial:
        attempts = self._trials[number].attempts + 1
        return self._update(number, state=TrialState.RUNNING, started=self._now(), finished=None, attempts=attempts)

    def progress(self, number: int, epoch: int) -> None:
        """No lease depends on it."""

    def renew(self) -> None:
        """There are no leases."""

    def finish(
        self, number: int, state: TrialState, *, metrics: Metrics | None = None, reason: str | None = None
    ) -> Trial:
        assert state.final
        return self._update(number, state=state, metrics=metrics, reason=reason, finished=self._now())

    def preempt(self, number: int, *, lost: bool) -> Trial:  # noqa: ARG002  its process is this one
        return self._update(number, state=TrialState.PREEMPTED)

    def reclaim(self) -> list[Trial]:
        return []

    def foreign(self) -> list[Trial]:
        return []

    def _now(self) -> datetime:
        return BEGIN + timedelta(seconds=self._clock())

    def _update(self, number: int, **changes: Any) -> Trial:
        self._trials[number] = replace(self._trials[number], **changes)
        return self._trials[number]


@dataclass(order=True)
class _Task:
    ends: float
    number: int
    event: Event = field(compare=False)


class ReplayExecutor:
    """`slots` tasks at once in simulated time, without folders: a task's answer is known when it is submitted, and
    delivered once the ``train_seconds`` that it says to have needed have gone by. Those count the whole training; one
    that is continued takes only what it adds. An answer without them takes a second an epoch.
    """

    def __init__(self, slots: int = 1) -> None:
        assert slots > 0, "something runs"
        self._slots = slots
        self._tasks: list[_Task] = []
        self._spent: dict[Path, float] = {}  # seconds of the whole training, by the folder it would have
        self._now = 0.0
        self._stopping = False

    def clock(self) -> float:
        """Simulated seconds since the begin."""
        return self._now

    def slots(self) -> int:
        return self._slots

    def running(self) -> frozenset[int]:
        return frozenset(task.number for task in self._tasks)

    def submit(
        self,
        number: int,
        folder: Path,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        start: Path | None = None,
    ) -> None:
        assert len(self._tasks) < self._slots, "a slot is free"
        event: Event
        seconds = before = 0.0 if start is None else self._spent.get(start, 0.0)
        try:
            value = function(*args, TrialContext(folder=folder, start=start, should_stop=lambda: self._stopping))
        except Exception as error:  # as in other executors: a task may raise anything, and it must only end itself
            event = Broken(number, one_line(error))
        else:
            event = Done(number, value)
            if isinstance(value, Metrics):
                seconds = value.values.get("train_seconds", float(value.fidelity.epochs))
        self._spent[folder] = seconds
        heapq.heappush(self._tasks, _Task(self._now + max(0.0, seconds - before), number, event))

    def poll(self, deliver: Callable[[Event], None], timeout: float) -> None:
        """With a timeout, the task that ends first ends now; without, no time goes by."""
        if self._stopping:
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                deliver(Interrupted(task.number))
        elif self._tasks and (timeout > 0 or self._tasks[0].ends <= self._now):
            task = heapq.heappop(self._tasks)
            self._now = max(self._now, task.ends)
            deliver(task.event)

    def stop(self) -> None:
        self._stopping = True

    def kill(self) -> None:
        self._stopping = True

    def close(self) -> None:
        self._tasks.clear()


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a simulated study went: its ending, and its trials in the order of their numbers, with simulated times."""

    ending: Ending
    trials: tuple[Trial, ...]

    def steps(self) -> list[tuple[int, Trial]]:
        """The trials that were trained (complete and failed) in the order in which they ended, each with the epochs
        of all trainings of the study that had begun by then: what runs beside it is paid for too."""
        trained = [trial for trial in self.trials if counts(trial)]
        ended = sorted((t for t in trained if t.finished is not None), key=lambda t: (t.finished or BEGIN, t.number))
        found = []
        for place, trial in enumerate(ended):
            before = {earlier.number for earlier in ended[: place + 1]}
            begun = (t for t in trained if t.number in before or (t.started or BEGIN) < (trial.finished or BEGIN))
            found.append((sum(added_epochs(t.fidelity, t.continues, self.trials) for t in begun), trial))
        return found


def replay(
    search: Search,
    objectives: Sequence[Objective],
    *,
    name: Callable[[DetectorSpec], str] = format_detector,
    workers: int = 1,
    trials: int | None = None,
    epochs: int | None = None,
    seconds: float | None = None,
) -> Replayed:
    """Run a study in simulated time, with the budgets of `run_study` (`seconds` are simulated ones)."""
    executor = ReplayExecutor(workers)
    book = MemoryBook(objectives, executor.clock, name=name)
    ending = run_study(book, search, executor, trials=trials, epochs=epochs, seconds=seconds, clock=executor.clock)
    return Replayed(ending, tuple(book.trials()))
