"""What a trial is, and the callables between which a study stands: cost, evaluate, strategy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import numpy as np

from detsearch.arch.spec import DetectorSpec
from detsearch.errors import DetsearchError
from detsearch.types import CostMetrics, Fidelity, Metrics

RANDOM: Final = "random"
"""Origin of a candidate that was drawn."""
GIVEN: Final = "given"
"""Origin of a candidate that the user named."""
PROMOTION: Final = "promotion"
"""Origin of a training that goes on."""
SURVEY: Final = "survey"
"""Origin of a candidate of which only the cost is wanted, so far."""


class TrialState(StrEnum):
    """Where a trial stands. Complete, costed, pruned and failed are final."""

    WAITING = "waiting"  # proposed, not started
    RUNNING = "running"  # being evaluated, under a lease
    COMPLETE = "complete"
    COSTED = "costed"  # its cost is known, and no more was wanted: its detector may be proposed for training
    PRUNED = "pruned"  # left out before training, for a recorded reason
    FAILED = "failed"  # for a recorded reason
    PREEMPTED = "preempted"  # started, interrupted, to be run again

    @property
    def final(self) -> bool:
        return self in (TrialState.COMPLETE, TrialState.COSTED, TrialState.PRUNED, TrialState.FAILED)


LOST: Final = (TrialState.PRUNED, TrialState.FAILED)
"""States of what came to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A candidate and where it comes from: `origin` names the move, `parents` the trials that it grew from.

    `fidelity` is how thoroughly to train it, None for the study's own. A proposal that `continues` a complete trial is
    the same spec at a higher fidelity, whose training goes on where that trial's ended. One that `inherits` from a
    complete trial is another spec, whose training begins with that trial's weights as far as they fit; what continues
    it inherits from the same. One whose origin is `SURVEY` is not trained, only costed.
    """

    spec: DetectorSpec
    origin: str
    parents: tuple[int, ...] = ()
    fidelity: Fidelity | None = None
    continues: int | None = None
    inherits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate of a study as the ledger has it. Numbers start at 0 and have no gaps.

    `attempts` counts how often its evaluation was started; `started` and `finished` belong to the last attempt.
    """

    number: int
    code: str  # the spec as text
    spec: DetectorSpec
    state: TrialState
    fidelity: Fidelity
    seed: int
    origin: str
    parents: tuple[int, ...] = ()
    continues: int | None = None
    inherits: int | None = None
    cost: CostMetrics | None = None
    metrics: Metrics | None = None
    reason: str | None = None
    started: datetime | None = None
    finished: datetime | None = None
    attempts: int = 0

    def values(self) -> dict[str, float]:
        """All figures by name: what the evaluation found and what the candidate costs; a cost measured before training
        wins over a metric of the same name, because pruning and limits have used it."""
        found = {} if self.metrics is None else dict(self.metrics.values)
        return found if self.cost is None else found | self.cost.values()

    @property
    def seconds(self) -> float | None:
        """Wall time of the last attempt, None where it did not start or end."""
        if self.started is None or self.finished is None:
            return None
        return (self.finished - self.started).total_seconds()

    def to_json(self) -> dict[str, Any]:
        """Plain values that strict JSON can hold: the spec as its code, a figure that is not finite as None."""
        metrics = None if self.metrics is None else self.metrics.to_json()
        if metrics is not None:
            metrics["values"] = {name: v if math.isfinite(v) else None for name, v in metrics["values"].items()}
        return {
            "number": self.number,
            "code": self.code,
            "state": str(self.state),
            "fidelity": {"epochs": self.fidelity.epochs},
            "seed": self.seed,
            "origin": self.origin,
            "parents": list(self.parents),
            "continues": self.continues,
            "inherits": self.inherits,
            "cost": None if self.cost is None else self.cost.to_json(),
            "metrics": metrics,
            "reason": self.reason,
            "started": None if self.started is None else self.started.isoformat(),
            "finished": None if self.finished is None else self.finished.isoformat(),
            "attempts": self.attempts,
        }


def taken(trials: Iterable[Trial]) -> set[DetectorSpec]:
    """What is not to be proposed for training again: of detectors whose cost alone was wanted, only what it put out."""
    return {trial.spec for trial in trials if trial.origin != SURVEY or trial.state in LOST}


def waiting(proposal: Proposal, *, number: int, code: str, fidelity: Fidelity, seed: int) -> Trial:
    """The trial that a proposal becomes."""
    return Trial(
        number=number,
        code=code,
        spec=proposal.spec,
        state=TrialState.WAITING,
        fidelity=fidelity,
        seed=seed,
        origin=proposal.origin,
        parents=proposal.parents,
        continues=proposal.continues,
        inherits=proposal.inherits,
    )


def promotion(trial: Trial, fidelity: Fidelity) -> Proposal:
    """A trial's training is gone on with."""
    return Proposal(
        spec=trial.spec,
        origin=PROMOTION,
        parents=(trial.number,),
        fidelity=fidelity,
        continues=trial.number,
        inherits=trial.inherits,
    )


class TrialInterrupted(DetsearchError):
    """Raised by an evaluate that was asked to stop, after it saved its state in its folder."""


def _silent(epoch: int, epochs: int, message: str) -> None:
    """A report that nobody reads."""


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialContext:
    """What an evaluation is given to work with.

    `folder` is its own, and the same one when it is called again after an interruption. `start`, where there is one, is
    the folder of the trial that it continues, and `inherits` that of the trial whose weights it begins with; both are
    to be read only. `threads` is how many CPU threads it may use; `sharing` is how many trials, with this one, may have
    its `device` at once, each with an equal share of the memory.
    `report(epoch, epochs, message)` says how far it is (epoch 1 is the first finished one). `should_stop()` is to be
    asked often: once it is true, save and raise TrialInterrupted.
    """

    folder: Path
    start: Path | None = None
    inherits: Path | None = None
    device: str = "cpu"
    threads: int = 1
    sharing: int = 1
    report: Callable[[int, int, str], None] = _silent
    should_stop: Callable[[], bool] = _never


Cost: TypeAlias = Callable[[DetectorSpec], CostMetrics]
"""What a candidate costs, before any training."""

Evaluate: TypeAlias = Callable[[DetectorSpec, Fidelity, int, TrialContext], Metrics]
"""``evaluate(spec, fidelity, seed, context)``: train and score a candidate."""


class Strategy(Protocol):
    """How the next candidate is chosen. `propose` is pure: equal arguments give equal proposals in any process."""

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        """The next candidate; never one that is `taken` by `history` (final states) or `running` (all others), both in
        order of their numbers, at the same fidelity. None where there is nothing to propose: the space is exhausted,
        or, with trials running, what they find has to be waited for."""
        ...


@runtime_checkable
class Continuing(Protocol):
    """A strategy whose proposals also continue trainings, and which knows of some that are worth it when a budget
    allows no new candidate."""

    def continuation(
        self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator, left: int | None = None
    ) -> Proposal | None:
        """A proposal that continues a trial which can be finished in the epochs that are `left`, if these are limited;
        None where none is worth it. Pure."""
        ...


def continuation(
    strategy: Strategy,
    history: Sequence[Trial],
    running: Sequence[Trial],
    rng: np.random.Generator,
    left: int | None = None,
) -> Proposal | None:
    """The next training that a strategy goes on with when nothing new may begin; None of most strategies."""
    return strategy.continuation(history, running, rng, left) if isinstance(strategy, Continuing) else None


def proposal_rng(seed: int, number: int) -> np.random.Generator:
    """The generator with which trial `number` of a study is proposed: independent of how the study got there."""
    return np.random.default_rng(np.random.SeedSequence([seed, number]))


def trial_seed(seed: int, number: int) -> int:
    """The seed that trial `number` is evaluated with, independent of the one that it was proposed with."""
    return int(np.random.SeedSequence([seed, number], spawn_key=(1,)).generate_state(1)[0])
