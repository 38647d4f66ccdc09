"""How two figures of the same trials go together, with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detsearch.intervals import NORMAL

Array = NDArray[np.float64]

LEAST: Final = 4
"""Pairs below which there is no interval, and so no figure: Fisher's needs more than three."""


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A coefficient with its 95 % interval; without one, None, where it is 1 or -1: there Fisher's transformation has
    none, though few pairs may agree so by chance."""

    value: float
    low: float | None
    high: float | None

    @property
    def decided(self) -> bool:
        """Does the interval leave zero out?"""
        return self.low is not None and self.high is not None and self.low * self.high > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Of `count` pairs; where there is no figure, `reason` says why."""

    count: int
    spearman: Coefficient | None = None
    pearson: Coefficient | None = None
    reason: str | None = None


def correlate(factor: Array, figure: Array) -> Correlation:
    """Spearman's and Pearson's coefficients of (n,) values, over the pairs that are finite.

    Intervals are Fisher's (arctanh, normal), with the variance 1 / (n - 3) for Pearson's and, for Spearman's,
    (1 + r² / 2) / (n - 3) (Bonett and Wright, Psychometrika 2000). They take the pairs for independent draws.
    """
    kept = np.isfinite(factor) & np.isfinite(figure)
    count = int(kept.sum())
    if count < LEAST:
        return Correlation(count=count, reason=f"fewer than {LEAST} trials")
    x, y = factor[kept], figure[kept]
    for values, what in ((x, "it"), (y, "accuracy")):
        if np.ptp(values) == 0:
            return Correlation(count=count, reason=f"{what} is the same in all")
    ranked, plain = rank_correlation(x, y), float(np.corrcoef(x, y)[0, 1])
    return Correlation(
        count=count,
        spearman=_with_interval(ranked, (1 + ranked**2 / 2) / (count - 3)),
        pearson=_with_interval(plain, 1 / (count - 3)),
    )


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's, ties at their mean rank, over the pairs that are finite; NaN for fewer than two or without spread."""
    kept = np.isfinite(a) & np.isfinite(b)
    first, second = _ranks(a[kept]), _ranks(b[kept])
    if kept.sum() < 2 or first.std() == 0 or second.std() == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def _with_interval(value: float, variance: float) -> Coefficient:
    value = min(1.0, max(-1.0, value))
    if abs(value) > 1 - 1e-12:
        return Coefficient(value, None, None)
    centre, half = math.atanh(value), NORMAL * math.sqrt(variance)
    return Coefficient(value, math.tanh(centre - half), math.tanh(centre + half))
