"""The loop of a study: propose → cost → limits and pruning → evaluate → record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Literal, TypeAlias

from detsearch.arch.spec import DetectorSpec
from detsearch.errors import ResourceError, UserError
from detsearch.search.book import Book
from detsearch.search.execution.base import Broken, Done, Event, Executor, Interrupted, Progress, Unusable
from detsearch.search.halving import Halving
from detsearch.search.inheritance import Heir, weights_epochs
from detsearch.search.objective import Limit
from detsearch.search.pruning import Leq, prune_reason
from detsearch.search.trial import (
    GIVEN,
    SURVEY,
    Cost,
    Evaluate,
    Proposal,
    Strategy,
    Trial,
    TrialContext,
    TrialState,
    continuation,
    proposal_rng,
    trial_seed,
)
from detsearch.signals import on_signals
from detsearch.types import CostMetrics, Fidelity, Metrics

POLL_SECONDS: Final = 0.2
PRUNED_IN_A_ROW: Final = 200


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is looked for and how; the objectives are the ledger's.

    `fidelity` is the full one; with `halving`, whose last rung it then is, candidates begin with the first rung. `leq`
    is the order that pruning relies on, None for no pruning, and `slack` its margin (see `prune_reason`). `counted` is
    asked in place of `cost` of what only has to be costed (`SURVEY`), where neither objectives nor limits need all.
    """

    strategy: Strategy
    cost: Cost
    evaluate: Evaluate
    fidelity: Fidelity
    seed: int
    halving: Halving | None = None
    leq: Leq | None = None
    slack: float = 0.0
    limits: tuple[Limit, ...] = ()
    counted: Cost | None = None


class Ending(StrEnum):
    """Why a study's loop ended."""

    TRIALS = "all trials are done"
    EPOCHS = "the epochs are used up"
    SECONDS = "the time is used up"
    EXHAUSTED = "every member of the space has been tried"
    PRUNED = f"{PRUNED_IN_A_ROW} candidates in a row were pruned"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class StudyEvent:
    """Something to show.

    "trial": a trial came into the state that it has now (running, complete, costed, failed, pruned, preempted);
    "progress": a running trial has finished `epoch` of `epochs`; "stopping": running trials were asked to save.
    """

    kind: Literal["trial", "progress", "stopping"]
    trial: Trial | None = None
    epoch: int = 0
    epochs: int = 0
    message: str = ""


OnEvent: TypeAlias = Callable[[StudyEvent], None]


def run_study(
    ledger: Book,
    search: Search,
    executor: Executor,
    *,
    trials: int | None = None,
    epochs: int | None = None,
    seconds: float | None = None,
    on_event: OnEvent = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Ending:
    """Bring a study to its budget; called again, with the same or a larger one, it goes on where it was.

    `trials` counts the complete and the failed trials of the whole study; pruned ones, those that continue another, and
    those of which only the cost is wanted (`SURVEY`) do not count, so numbers (which every proposal gets) may be
    higher, and what has earned it is still continued when no new candidate begins. `epochs` counts what all of these
    train: nothing starts that would exceed it. `seconds` is counted from this call: when they are over nothing new
    starts, and what runs is finished. Trials that were interrupted are run before new ones are proposed. `cost` and
    `evaluate` run in the executor, which stays the caller's to close. Trial n is proposed with the generator
    `proposal_rng(seed, n)` from the trials recorded by then, so a study of one slot depends on its seed only.

    SIGINT, SIGTERM and SIGHUP, in the main thread, ask running trials to save and end; a second one kills them.
    Either way what was interrupted is run again by the next call. Whatever happens to one
    candidate is recorded with it and ends nothing else; UserErrors that concern the whole study (a limit on an unknown
    cost) are raised. So is a ResourceError of `cost` or `evaluate` (a full disk, missing weights), after the other
    trials have saved and ended: with that mended, the next call goes on.
    """
    deadline = None if seconds is None else clock() + seconds
    loop = _Loop(ledger, search, executor, trials, epochs, deadline, on_event, clock)
    with on_signals(loop.signal):
        return loop.run()


@dataclass
class _Loop:
    ledger: Book
    search: Search
    executor: Executor
    trials: int | None
    epochs: int | None
    deadline: float | None
    on_event: OnEvent
    clock: Callable[[], float]
    stopping: bool = False
    announced: bool = False
    signalled: bool = False
    failure: ResourceError | None = None
    pruned_in_a_row: int = 0

    def run(self) -> Ending:
        while True:
            for trial in self.ledger.reclaim():
                self._tell(trial)
            free = len(self.executor.running()) < self.executor.slots()
            ending = self._next() if free else None
            if ending is not None and not self.executor.running() and not self._awaits_others(ending):
                if self.failure is not None:
                    raise self.failure
                return ending
            self.executor.poll(self._heard, 0.0 if free and ending is None else POLL_SECONDS)
            self.ledger.renew()
            if self.stopping and not self.announced:
                self.announced = True
                self.on_event(StudyEvent("stopping"))

    def stop(self) -> None:
        self.stopping = True
        self.executor.stop()

    def signal(self) -> None:
        """The first asks for a graceful end, each later one for an end at once."""
        again, self.signalled = self.signalled, True
        self.stop()
        if again:
            self.executor.kill()

    def _next(self) -> Ending | None:
        """Take one candidate a step further, or say why none is started now."""
        if self.stopping:
            return Ending.INTERRUPTED
        if self.deadline is not None and self.clock() >= self.deadline:
            return Ending.SECONDS
        known, busy = self.ledger.trials(), self.executor.running()
        waiting = (t for t in known if t.state in (TrialState.PREEMPTED, TrialState.WAITING) and t.number not in busy)
        trial = next(waiting, None)
        begun = [t for t in known if counts(t) or (t.number in busy and t.origin != SURVEY)]
        full = self.trials is not None and sum(t.continues is None for t in begun) >= self.trials
        # What begins now could not be trained in full: the epochs that are left are for what has begun. Not with
        # halving, where it may yet be what another has to be compared with.
        last = self.search.halving is None and not self._affordable(self.search.fidelity, None, begun, known)
        if trial is not None and trial.origin != SURVEY and trial.continues is None and full:
            return Ending.TRIALS
        if trial is None:
            proposal = self._promotion(known, full or last, begun)
            if proposal is None and (full or last):
                return Ending.TRIALS if full else Ending.EPOCHS
            if proposal is None and self.pruned_in_a_row >= PRUNED_IN_A_ROW:
                return Ending.PRUNED
            proposal = proposal or self._new(known)
            if proposal is None:
                return Ending.EXHAUSTED
            if not self._affordable(proposal.fidelity or self.search.fidelity, proposal.continues, begun, known):
                return Ending.EPOCHS
            trial = self._add(proposal, known)
        elif trial.origin != SURVEY and not self._affordable(trial.fidelity, trial.continues, begun, known):
            return Ending.EPOCHS
        if trial.state is TrialState.WAITING and trial.cost is None:
            if (cost := self._known_cost(trial, known)) is None:
                self._start_cost(trial)
            else:
                self.ledger.record_cost(trial.number, cost)
        elif trial.origin == SURVEY:
            if self._worthwhile(trial, known):
                self._end(trial, TrialState.COSTED, None)
        elif trial.state is TrialState.PREEMPTED or self._worthwhile(trial, known):
            self.pruned_in_a_row = 0
            self._start(trial)
        return None

    def _promotion(self, known: list[Trial], full: bool, begun: list[Trial]) -> Proposal | None:
        """A training to go on with before anything new begins; with a `full` budget, one that the strategy knows of and
        that can be finished."""
        if self.search.halving is not None:
            return self.search.halving.promotion(known)
        if not full:
            return None
        rng = proposal_rng(self.search.seed, len(known))
        return continuation(self.search.strategy, *_parted(known), rng, self._left(begun, known))

    def _new(self, known: list[Trial]) -> Proposal | None:
        proposal = self.search.strategy.propose(*_parted(known), proposal_rng(self.search.seed, len(known)))
        if proposal is None or proposal.fidelity is not None or self.search.halving is None:
            return proposal
        if proposal.origin == GIVEN:  # what others are compared with has to be trained in full
            return proposal
        return replace(proposal, fidelity=self.search.halving.first)

    def _affordable(self, fidelity: Fidelity, continues: int | None, begun: list[Trial], known: list[Trial]) -> bool:
        """Are there epochs left for one more training than those that have `begun`?"""
        left = self._left(begun, known)
        return left is None or added_epochs(fidelity, continues, known) <= left

    def _left(self, begun: list[Trial], known: list[Trial]) -> int | None:
        """Epochs that may be spent beside those of the trainings that have `begun`; None: any number."""
        if self.epochs is None:
            return None
        return self.epochs - sum(added_epochs(t.fidelity, t.continues, known) for t in begun)

    def _add(self, proposal: Proposal, known: list[Trial]) -> Trial:
        """Record a proposal. One that continues a trial keeps its seed, as the same training."""
        before = None if proposal.continues is None else known[proposal.continues]
        seed = trial_seed(self.search.seed, len(known)) if before is None else before.seed
        return self.ledger.add(proposal, fidelity=proposal.fidelity or self.search.fidelity, seed=seed)

    def _worthwhile(self, trial: Trial, known: list[Trial]) -> bool:
        """Is a candidate whose cost is known to be trained? If not, it has been recorded why. What the user named, and
        a structure's baseline, is not left out for what the order says of it."""
        cost = trial.cost
        assert cost is not None
        costs = cost.values()
        if (defect := _defect(costs, costs)) is not None:
            self._end(trial, TrialState.FAILED, f"cost: {defect}")
            return False
        # Those on what is known first: what is out by its MACs need not have been measured.
        limits = sorted(self.search.limits, key=lambda limit: limit.name not in costs)
        reason = next((found for limit in limits if (found := limit.broken_by(costs))), None)
        if reason is None and self.search.leq is not None and trial.origin != GIVEN:
            reason = prune_reason(
                trial.spec,
                cost,
                known,
                leq=self.search.leq,
                objectives=self.ledger.objectives,
                fidelity=self.search.fidelity,  # early on a larger one may well be behind
                slack=self.search.slack,
                inherited=0 if trial.inherits is None else weights_epochs(known[trial.inherits]),
            )
        if reason is not None:
            self._end(trial, TrialState.PRUNED, reason)
        return reason is None

    def _known_cost(self, trial: Trial, known: Sequence[Trial]) -> CostMetrics | None:
        """That of the training which it goes on with, or of its detector in a survey, if that is all there is to know
        and its latency was steady."""
        if trial.continues is not None:
            return known[trial.continues].cost
        if trial.origin == SURVEY:
            return None
        costs = (t.cost for t in known if t.state is TrialState.COSTED and t.spec == trial.spec)
        return next((cost for cost in costs if cost is not None and self._is_whole(cost)), None)

    def _is_whole(self, cost: CostMetrics) -> bool:
        if cost.latency is not None:
            return cost.latency.steady
        # Without a latency it may be one that was only counted, now or before a limit was set.
        return self.search.counted is None and {limit.name for limit in self.search.limits} <= cost.values().keys()

    def _start_cost(self, trial: Trial) -> None:
        folder = self.ledger.trial_folder(trial.number)
        cost = self.search.counted if trial.origin == SURVEY else None
        self.executor.submit(trial.number, folder, _CostTask(cost or self.search.cost), (trial.spec,))

    def _heard_of_cost(self, trial: Trial, event: Event) -> None:
        match event:
            case Done(value=CostMetrics() as cost):
                self.ledger.record_cost(trial.number, cost)
            case Done():
                kind = type(event.value).__name__
                self._end(trial, TrialState.FAILED, f"cost: returned {kind} instead of CostMetrics")
            case Interrupted():
                if not self.stopping:
                    lost = self.ledger.lose_cost(trial.number)
                    if lost.state.final:
                        self._tell(lost)
            case Broken():
                self._end(trial, TrialState.FAILED, f"cost: {event.reason}")
            case Unusable():
                self._give_up(event.error)

    def _give_up(self, error: ResourceError) -> None:
        self.failure = self.failure or error
        self.stop()

    def _start(self, trial: Trial) -> None:
        trial = self.ledger.start(trial.number)
        folder = self.ledger.trial_folder(trial.number)
        evaluate = self.search.evaluate
        if trial.inherits is not None:
            evaluate = Heir(evaluate, self.ledger.trial_folder(trial.inherits))
        try:
            self.executor.submit(
                trial.number,
                folder,
                evaluate,
                (trial.spec, trial.fidelity, trial.seed),
                start=None if trial.continues is None else self.ledger.trial_folder(trial.continues),
            )
        except UserError:
            self.ledger.preempt(trial.number, lost=False)
            raise
        self._tell(trial)

    def _heard(self, event: Event) -> None:
        trial = self.ledger.trials()[event.number]
        if trial.state is TrialState.WAITING:
            self._heard_of_cost(trial, event)
            return
        match event:
            case Progress():
                self.ledger.progress(event.number, event.epoch)
                self.on_event(StudyEvent("progress", trial, event.epoch, event.epochs, event.message))
            case Done():
                self._complete(trial, event.value)
            case Interrupted():
                self._tell(self.ledger.preempt(event.number, lost=not self.stopping))
            case Broken():
                self._end(trial, TrialState.FAILED, event.reason)
            case Unusable():
                self._tell(self.ledger.preempt(event.number, lost=False))
                self._give_up(event.error)

    def _complete(self, trial: Trial, metrics: Any) -> None:
        if not isinstance(metrics, Metrics):
            self._end(trial, TrialState.FAILED, f"evaluate returned {type(metrics).__name__} instead of Metrics")
            return
        found = replace(trial, metrics=metrics).values()
        defect = _defect(found, [objective.name for objective in self.ledger.objectives])
        if defect is None and metrics.fidelity != trial.fidelity:
            defect = f"evaluated for {metrics.fidelity.epochs} epochs instead of {trial.fidelity.epochs}"
        if defect is not None:
            self._end(trial, TrialState.FAILED, defect)
        else:
            self._tell(self.ledger.finish(trial.number, TrialState.COMPLETE, metrics=metrics))

    def _end(self, trial: Trial, state: TrialState, reason: str | None) -> None:
        self.pruned_in_a_row = self.pruned_in_a_row + 1 if state is TrialState.PRUNED else 0
        self._tell(self.ledger.finish(trial.number, state, reason=reason))

    def _tell(self, trial: Trial) -> None:
        self.on_event(StudyEvent("trial", trial))

    def _awaits_others(self, ending: Ending) -> bool:
        """Trials under another process's live lease belong to the count: wait until they end or their lease does."""
        return ending not in (Ending.INTERRUPTED, Ending.SECONDS) and bool(self.ledger.foreign())


@dataclass(frozen=True)
class _CostTask:
    """A `Cost` as executors run it."""

    cost: Cost

    def __call__(self, spec: DetectorSpec, context: TrialContext) -> CostMetrics:  # noqa: ARG002
        return self.cost(spec)


def _parted(known: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    """The trials that have ended, and the others."""
    return [t for t in known if t.state.final], [t for t in known if not t.state.final]


def counts(trial: Trial) -> bool:
    """Does a trial count towards a budget?"""
    return trial.origin != SURVEY and trial.state in (TrialState.COMPLETE, TrialState.FAILED, TrialState.RUNNING)


def added_epochs(fidelity: Fidelity, continues: int | None, known: Sequence[Trial]) -> int:
    """What a training adds to the one of the `known` trials that it continues."""
    return fidelity.epochs - (0 if continues is None else known[continues].fidelity.epochs)


def _defect(values: dict[str, float], names: Iterable[str]) -> str | None:
    for name in names:
        if name not in values:
            return f"objective {name} is missing from what was evaluated ({', '.join(sorted(values))})"
        if not math.isfinite(values[name]):
            return f"{name} is {values[name]}"
    return None
