"""The learning rate over a training, as a closed form of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WARMUP_START: Final = 0.001
"""Share of the learning rate at the first step of the warm-up."""

WARMUP_LIMIT: Final = 0.2
"""The warm-up takes at most this share of all steps, so that a short training also trains."""

DROP: Final = 0.1
"""What a drop multiplies the learning rate by."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up to 1 over `steps` steps in all, then half a cosine (Loshchilov and Hutter, "SGDR", 2017, eq. 5
    without restarts) down to `final`, which the last step has; or, where there are `drops`, steps in ascending order, a
    tenth as much from each of them on."""

    steps: int
    warmup: int
    final: float
    drops: tuple[int, ...] = ()

    @classmethod
    def over(cls, steps: int, *, warmup: int, final: float, drops: Sequence[float] = ()) -> Schedule:
        """A schedule whose warm-up is cut to WARMUP_LIMIT of the steps; `drops` are shares of the steps."""
        return cls(steps, min(warmup, int(steps * WARMUP_LIMIT)), final, tuple(round(share * steps) for share in drops))

    def factor(self, step: int) -> float:
        """The share of the learning rate at step 0..steps-1."""
        if step < self.warmup:
            return WARMUP_START + (1 - WARMUP_START) * step / self.warmup
        if self.drops:
            passed: int = sum(step >= drop for drop in self.drops)
            return DROP**passed
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - 1 - self.warmup))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
