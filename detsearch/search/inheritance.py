"""Candidates that begin with the weights of an earlier one (Real et al., "Large-Scale Evolution of Image Classifiers",
ICML 2017, "Weight inheritance"): whose, and what has to be remembered of it.

Such a candidate has been trained for more epochs than its own, so its figures are not those of a training from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detsearch.arch.spec import DetectorSpec
from detsearch.search.features import GROUPS, distances
from detsearch.search.trial import (
    GIVEN,
    RANDOM,
    SURVEY,
    Evaluate,
    Proposal,
    Strategy,
    Trial,
    TrialContext,
    TrialState,
    continuation,
)
from detsearch.types import Fidelity, Metrics

INHERITED: Final = "inherited"
"""Where the `Heritage` of a trial stands in the provenance of its metrics."""
INPUT: Final = GROUPS.index("input")
FRESH: Final = (RANDOM, GIVEN, SURVEY)
"""Origins of candidates that begin from scratch: first members, baselines and starts, against which others are seen;
and of those that are not trained."""


class Heritage(BaseModel):
    """What a training began with: `tensors` of the `of` tensors of its network, with `share` of its parameters, from
    weights that had been trained for `epochs`, those included that they had inherited themselves. `missing` says why
    nothing could be had; then it began from scratch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensors: int = Field(0, ge=0)
    of: int = Field(0, ge=0)
    share: float = Field(0.0, ge=0, le=1)
    epochs: int = Field(0, ge=0)
    missing: str | None = None

    def __str__(self) -> str:
        if self.missing is not None:
            return f"nothing, so from scratch: {self.missing}"
        taken = f"{self.tensors} of {self.of} tensors, {100 * self.share:.0f} % of the parameters"
        return f"{taken}, trained for {self.epochs} epochs"


def heritage_of(trial: Trial) -> Heritage | None:
    """What a complete trial began with; None where it began from scratch on purpose, or is not known yet."""
    if trial.inherits is None or trial.metrics is None:
        return None
    try:
        return Heritage.model_validate(trial.metrics.provenance.get(INHERITED))
    except ValidationError:
        return None


def inherited_epochs(trial: Trial) -> int:
    """For how many epochs the weights were trained that a complete trial began with."""
    heritage = heritage_of(trial)
    return 0 if heritage is None else heritage.epochs


def weights_epochs(trial: Trial) -> int:
    """For how many epochs the weights of a complete trial were trained, its own and the inherited ones."""
    return trial.fidelity.epochs + inherited_epochs(trial)


@dataclass(frozen=True)
class Heir:
    """An `Evaluate` whose context names the folder of the trial whose weights it begins with."""

    evaluate: Evaluate
    inherits: Path

    def __call__(self, spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
        return self.evaluate(spec, fidelity, seed, replace(context, inherits=self.inherits))


@dataclass(frozen=True, kw_only=True)
class Inheriting:
    """The proposals of `strategy`, each with the trial from which it inherits, unless its origin is `FRESH`.

    A mutation inherits from its parent, anything else from the nearest complete trial by the distances of `features`
    between networks. Of equally near ones it is the one with the nearest input (of which weights do not depend), the
    most epochs, and the highest number. The generator is the strategy's alone, which proposes as it does without this.
    """

    strategy: Strategy

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        proposal = self.strategy.propose(history, running, rng)
        if proposal is None or proposal.origin in FRESH or proposal.continues is not None:
            return proposal
        return replace(proposal, inherits=_source(proposal, history))

    def continuation(
        self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator, left: int | None = None
    ) -> Proposal | None:
        return continuation(self.strategy, history, running, rng, left)


def _source(proposal: Proposal, history: Sequence[Trial]) -> int | None:
    """The number of the trial whose weights a candidate begins with; None where none is complete."""
    complete = [trial for trial in history if trial.state is TrialState.COMPLETE]
    if proposal.parents:
        parents = {trial.spec for trial in history if trial.number in proposal.parents}
        complete = [trial for trial in complete if trial.spec in parents]
    if not complete:
        return None
    apart = distances([proposal.spec], [trial.spec for trial in complete])[:, 0]
    network, size = np.delete(apart, INPUT, axis=0).sum(axis=0), apart[INPUT]
    epochs = [trial.fidelity.epochs for trial in complete]
    numbers = [trial.number for trial in complete]
    order = np.lexsort((np.negative(numbers), np.negative(epochs), size, network))
    return numbers[int(order[0])]
