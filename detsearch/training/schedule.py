"""The learning rate over a training, as a closed form of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

WARMUP_START: Final = 0.001
"""Share of the learning rate at the first step of the warm-up."""

WARMUP_LIMIT: Final = 0.2
"""The warm-up takes at most this share of all steps, so that a short training also trains."""


@dataclass(frozen=True, slots=True)
class WarmupCosine:
    """Linear warm-up to 1, then half a cosine (Loshchilov and Hutter, "SGDR", 2017, eq. 5 without restarts) down to
    `final`, which the last of `steps` steps has."""

    steps: int
    warmup: int
    final: float

    @classmethod
    def over(cls, steps: int, *, warmup: int, final: float) -> WarmupCosine:
        """A schedule whose warm-up is cut to WARMUP_LIMIT of the steps."""
        return cls(steps, min(warmup, int(steps * WARMUP_LIMIT)), final)

    def factor(self, step: int) -> float:
        """The share of the learning rate at step 0..steps-1."""
        if step < self.warmup:
            return WARMUP_START + (1 - WARMUP_START) * step / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - 1 - self.warmup))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
