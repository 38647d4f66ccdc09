"""Where a study's loop writes down what happens: on disk (`ledger.Ledger`) or in memory (`replay.MemoryBook`)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from detsearch.search.objective import Objective
from detsearch.search.trial import Proposal, Trial, TrialState
from detsearch.types import CostMetrics, Fidelity, Metrics


class Book(Protocol):
    """Trials by number, and the facts by which they go from one state to the next. Each method that changes a trial
    returns what it has become."""

    objectives: tuple[Objective, ...]

    def trials(self) -> list[Trial]:
        """All trials in the order of their numbers."""
        ...

    def trial_folder(self, number: int) -> Path:
        """What is to be a trial's own folder, if it needs one."""
        ...

    def add(self, proposal: Proposal, *, fidelity: Fidelity, seed: int) -> Trial:
        """A new waiting trial, with the next number."""
        ...

    def lose_cost(self, number: int) -> Trial:
        """The process that computed the cost of a waiting trial has died. It comes back failed where that was so too
        often."""
        ...

    def record_cost(self, number: int, cost: CostMetrics) -> Trial:
        """What a trial costs."""
        ...

    def start(self, number: int) -> Trial:
        """A waiting or preempted trial runs."""
        ...

    def progress(self, number: int, epoch: int) -> None:
        """A running trial has finished `epoch` epochs."""
        ...

    def renew(self) -> None:
        """The loop is alive: its running trials are still its own."""
        ...

    def finish(
        self, number: int, state: TrialState, *, metrics: Metrics | None = None, reason: str | None = None
    ) -> Trial:
        """A trial has ended for good: complete with metrics, or pruned or failed for a reason."""
        ...

    def preempt(self, number: int, *, lost: bool) -> Trial:
        """A running trial was interrupted and is to be run again; or fails, if it was `lost` too often."""
        ...

    def reclaim(self) -> list[Trial]:
        """The trials that others have given up since the last call, as they are now."""
        ...

    def foreign(self) -> list[Trial]:
        """The trials that others are running."""
        ...
