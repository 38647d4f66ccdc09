"""How far a mean of few values can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

QUANTILES: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t at 97.5 %, for 1 to 30 degrees of freedom."""
NORMAL: Final = 1.96


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values with its 95 % interval, `half` to either side; None where one value has no spread."""

    mean: float
    half: float | None
    count: int

    @property
    def decided(self) -> bool:
        """Does it leave zero out?"""
        return self.half is not None and abs(self.mean) > self.half


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's interval of the mean, which takes the values for normally distributed; None of no values."""
    if not values:
        return None
    if len(values) == 1:
        return Interval(values[0], None, 1)
    freedom = len(values) - 1
    quantile = QUANTILES[freedom - 1] if freedom <= len(QUANTILES) else NORMAL
    return Interval(statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values)), len(values))
