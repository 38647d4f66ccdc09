"""How much a candidate whose figures are only predicted is expected to improve a front's hypervolume.

For two objectives in closed form: the region that a front leaves free falls into strips, and the expectation of a
product of independent figures is the product of theirs (compare Emmerich, Deutz and Klinkenberg, "Hypervolume-based
expected improvement", CEC 2011). For more, the mean over draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from detsearch.search.pareto import improvements, strips

DRAWS: Final = 32
"""Over which the improvement is averaged with three objectives and more, where each is computed alone; the same for all
candidates, and in pairs with opposite signs, so that chance does not choose between them."""

Array = NDArray[np.float64]
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Of n candidates' m figures, independent of each other: `means` and `deviations`, (n, m), of what is normally
    distributed: the figure times its sign (-1 where more is better), or, where `logarithmic` (m,), the logarithm of the
    figure, which is positive."""

    means: Array
    deviations: Array
    logarithmic: NDArray[np.bool_]
    signs: Array

    def part(self, rows: slice) -> Self:
        """Those of some candidates."""
        return type(self)(
            means=self.means[rows],
            deviations=self.deviations[rows],
            logarithmic=self.logarithmic,
            signs=self.signs,
        )

    def likely(self, normal: Array | None = None) -> Array:
        """(..., n, m) figures for minimisation: the medians, or so many deviations beside them."""
        figures = self.means if normal is None else self.means + normal * self.deviations
        costs = self.signs * np.exp(np.where(self.logarithmic, figures, 0.0))
        return np.where(self.logarithmic, costs, figures)

    def shortfall(self, column: int, edges: Array) -> Array:
        """(n, k) by how much a figure is expected to stay below each of k `edges`: E[max(0, edge - figure)]."""
        mean, deviation = self.means[:, column, None], self.deviations[:, column, None]
        if not self.logarithmic[column]:
            return _below(mean, deviation, edges)
        if self.signs[column] > 0:
            return _log_below(mean, deviation, edges)
        # max(0, edge + y) = (edge + y) + max(0, -edge - y), of the positive y
        finite = np.where(np.isfinite(edges), edges, 0.0)
        found = np.exp(mean + deviation**2 / 2) + finite + _log_below(mean, deviation, -finite)
        return np.where(np.isfinite(edges), np.maximum(found, 0.0), 0.0)


def expected_improvements(
    predictions: Predictions, front: Array, reference: Sequence[float], rng: np.random.Generator
) -> Array:
    """(n,) by how much each of n candidates alone is expected to make the hypervolume of `front`, (k, m) points for
    minimisation, below `reference` grow."""
    if len(reference) == 2:
        left, right, tops = strips(front, reference)
        widths = predictions.shortfall(0, right) - predictions.shortfall(0, left)
        return np.asarray((widths * predictions.shortfall(1, tops)).sum(axis=1))
    count, dimensions = predictions.means.shape
    half = rng.standard_normal((DRAWS // 2, 1, dimensions))
    points = predictions.likely(np.concatenate([half, -half]))
    return np.asarray(improvements(points.reshape(-1, dimensions), front, reference).reshape(DRAWS, count).mean(axis=0))


def _below(mean: Array, deviation: Array, edges: Array) -> Array:
    """E[max(0, edge - x)] of normal x."""
    finite = np.where(np.isfinite(edges), edges, mean)
    scaled = np.clip((finite - mean) / np.maximum(deviation, 1e-300), -40.0, 40.0)
    density = np.exp(-(scaled**2) / 2) / math.sqrt(2 * math.pi)
    found = np.where(deviation > 0, (finite - mean) * _normal(scaled) + deviation * density, finite - mean)
    return np.where(np.isfinite(edges), np.maximum(found, 0.0), 0.0)


def _log_below(mean: Array, deviation: Array, edges: Array) -> Array:
    """The same of x whose logarithm is normal."""
    positive = np.isfinite(edges) & (edges > 0)
    logarithms = np.log(np.where(positive, edges, 1.0))
    scaled = np.clip((logarithms - mean) / np.maximum(deviation, 1e-300), -40.0, 40.0)
    spread = np.exp(mean + deviation**2 / 2) * _normal(scaled - deviation)
    found = np.where(deviation > 0, edges * _normal(scaled) - spread, edges - np.exp(mean))
    return np.where(positive, np.maximum(found, 0.0), 0.0)


def _normal(values: Array) -> Array:
    """The standard normal distribution function."""
    return np.asarray(0.5 * _erfc(-values / math.sqrt(2)))
