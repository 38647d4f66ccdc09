"""Pareto mathematics as free functions of arrays of shape (n, m): n points, m objectives, all minimised.

A point dominates another if it is nowhere larger and somewhere smaller; so equal points do not dominate each other and
are all kept. A point with a NaN or an infinity is not comparable: it is never on the front and
changes nothing for the others (moocore alone would let one NaN spoil the whole answer).
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from detsearch.search.objective import Objective, vector
from detsearch.search.trial import Trial, TrialState
from detsearch.types import Fidelity

Points = NDArray[np.float64]


def finite(points: Points) -> NDArray[np.bool_]:
    """(n,) mask of the points that can be compared."""
    return np.asarray(np.isfinite(points).all(axis=1))


def non_dominated(points: Points) -> NDArray[np.bool_]:
    """(n,) mask of the points that no other point dominates."""
    mask = finite(points)
    if mask.any():
        mask[mask] = moocore.is_nondominated(points[mask], keep_weakly=True)
    return mask


def crowding_distance(points: Points) -> Points:
    """(n,) distances of NSGA-II (Deb et al. 2002, section III-B) between points of one front; all must be finite.

    The sum over objectives of the gap between a point's two neighbours, relative to the objective's range; infinite at
    both ends. Of equal points the first counts and the others get 0, so that copies do not attract a search.
    """
    found = np.zeros(len(points))
    distinct, first = np.unique(points, axis=0, return_index=True)
    sums = np.zeros(len(distinct))
    for column in distinct.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        extent = ordered[-1] - ordered[0] if len(ordered) else 0.0
        if extent > 0:
            gaps = np.full(len(ordered), np.inf)
            gaps[1:-1] = (ordered[2:] - ordered[:-2]) / extent
            sums[order] += gaps
    found[first] = np.inf if len(distinct) <= 2 else sums
    return found


def ranking(points: Points, best: int | None = None) -> list[int]:
    """The `best` rows, or all, of (n, m) finite points for minimisation, best first: by front, and within one the least
    crowded first, in the given order where equal (Deb et al., NSGA-II, 2002, section III)."""
    best = len(points) if best is None else best
    if best == 0:
        return []
    ranks = moocore.pareto_rank(points)
    found: list[int] = []
    for rank in np.unique(ranks):
        front = np.flatnonzero(ranks == rank)
        found.extend(front[np.argsort(-crowding_distance(points[front]), kind="stable")].tolist())
        if len(found) >= best:
            break
    return found[:best]


def hypervolume(points: Points, reference: Sequence[float]) -> float:
    """Volume that the points dominate below `reference`, an (m,) point; points not below it add nothing."""
    kept = points[finite(points)]
    return float(moocore.hypervolume(kept, ref=np.asarray(reference, dtype=np.float64))) if len(kept) else 0.0


def improvements(points: Points, front: Points, reference: Sequence[float]) -> Points:
    """(n,) how much the hypervolume of `front` below `reference` grows by each of n points alone; all must be finite.

    In two dimensions all points at once, in more one by one.
    """
    if len(reference) != 2:
        best = _below(front, reference)
        volume = hypervolume(best, reference)
        return np.array([hypervolume(np.vstack([best, point]), reference) - volume for point in points])
    left, right, tops = strips(front, reference)
    widths = np.clip(right - np.maximum(left, points[:, :1]), 0, None)
    heights = np.clip(tops - points[:, 1:], 0, None)
    return np.asarray((widths * heights).sum(axis=1))


def strips(front: Points, reference: Sequence[float]) -> tuple[Points, Points, Points]:
    """(k,) left and right ends, and tops, of what (n, 2) points leave free below `reference`: between two neighbours of
    the front, and beyond its ends, everything below a top."""
    edge = np.asarray(reference, dtype=np.float64)
    best = _below(front, reference)
    best = best[np.argsort(best[:, 0], kind="stable")]
    left = np.concatenate([[-np.inf], best[:, 0]])
    right = np.concatenate([best[:, 0], edge[:1]])
    return left, right, np.concatenate([edge[1:], best[:, 1]])


def _below(points: Points, reference: Sequence[float]) -> Points:
    """The front of those below `reference`."""
    best = points[(points < np.asarray(reference, dtype=np.float64)).all(axis=1)]
    return best[non_dominated(best)]


def reference_point(points: Points) -> Points:
    """(m,) where hypervolume is measured from when nobody says: the worst value of each objective and a tenth of its
    extent beyond, so that the ends of a front count."""
    worst, extent = points.max(axis=0), np.ptp(points, axis=0)
    return np.asarray(worst + np.where(extent > 0, 0.1 * extent, 0.1 * np.maximum(np.abs(worst), 1e-9)))


def spread(points: Points, count: int) -> list[int]:
    """`count` of n finite points (all, if there are no more) that together dominate much: one after the other, each
    time the one that adds most hypervolume below `reference_point`, the first of equals. Their numbers, in the order of
    choice."""
    reference = reference_point(points).tolist()
    chosen: list[int] = []
    while len(chosen) < min(count, len(points)):
        gains = improvements(points, points[chosen], reference)
        gains[chosen] = -np.inf
        chosen.append(int(np.argmax(gains)))
    return chosen


def measured(trials: Sequence[Trial], objectives: Sequence[Objective], fidelity: Fidelity | None = None) -> list[Trial]:
    """The complete trials that can be compared with each other: all objectives finite, one fidelity (the highest that
    a complete trial has, unless given)."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if fidelity is None and complete:
        fidelity = max(trial.fidelity for trial in complete)
    return [t for t in complete if t.fidelity == fidelity and np.isfinite(vector(t.values(), objectives)).all()]


def matrix(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Points:
    """(n, m) values of trials for minimisation."""
    if not trials:
        return np.empty((0, len(objectives)))
    return np.stack([vector(trial.values(), objectives) for trial in trials])


def front(trials: Sequence[Trial], objectives: Sequence[Objective], fidelity: Fidelity | None = None) -> list[Trial]:
    """The `measured` trials that none of them dominates, in the given order; different trials with equal values all
    stay, since the choice between them is the user's."""
    compared = measured(trials, objectives, fidelity)
    mask = non_dominated(matrix(compared, objectives))
    return [trial for trial, kept in zip(compared, mask, strict=True) if kept]
