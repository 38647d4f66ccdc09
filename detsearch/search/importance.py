"""How much each choice matters: shares of the variance of a figure, and what each value of a choice comes with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detsearch.intervals import Interval, mean_interval

Array = NDArray[np.float64]

FREEDOM: Final = 3
"""Trials that there must be beyond the values to be told apart."""
REPEATS: Final = 2
"""Trials that there must be for each value in the mean, so that most values are seen again."""
PARTS: Final = 20
"""Into at most so many parts trials are cut, for intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of the variance of a figure, what a choice among `values` explains: `alone`, and `beyond` all other choices, each
    with its 95 % interval. Where choices go together in the trials, `alone` counts what they share for each of them,
    `beyond` for none. Both are adjusted for the number of values, so that they are 0 in the mean, and may be below,
    where a choice says nothing. None where there is no figure, and `reason` says why."""

    values: int
    alone: Interval | None = None
    beyond: Interval | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Of the choices for one figure: each one's share, and what they explain `together`, by adding their effects."""

    figure: str
    trials: int
    together: Interval | None
    shares: Mapping[str, Share]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The trials that have one value of a choice, and the mean of each figure over them."""

    value: str
    trials: int
    means: Mapping[str, Interval]


def importances(choices: Mapping[str, Sequence[str]], figures: Mapping[str, Array]) -> list[Importance]:
    """For each of `figures`, (n,) finite values, the shares of `choices`, each n values as text.

    A share is an adjusted R² (Ezekiel 1930): of the means of a choice's groups (Kelley's epsilon squared); of the sum
    of all choices' effects, by least squares; `beyond` is what the latter loses without the choice. Intervals are
    Student's of the pseudo-values of a jackknife over at most `PARTS` parts (Tukey 1958).
    """
    count = len(next(iter(figures.values())))
    values = {name: len(set(chosen)) for name, chosen in choices.items()}
    designs = {name: _design(choices[name]) for name, number in values.items() if 1 < number <= count / REPEATS}
    matrix = np.stack(list(figures.values()), axis=1)
    whole = _explained(designs, matrix)
    parts = np.arange(count) % max(1, min(count, PARTS))
    without = [_explained({n: d[parts != p] for n, d in designs.items()}, matrix[parts != p]) for p in np.unique(parts)]
    found = []
    for column, figure in enumerate(figures):

        def interval(term: str, column: int = column) -> Interval | None:
            if np.isnan(whole[term][column]):
                return None
            return _jackknife(float(whole[term][column]), [float(part[term][column]) for part in without])

        shares = {}
        for name, number in values.items():
            alone = interval(f"alone {name}") if name in designs else None
            reason = None
            if number < 2:
                reason = "the same in all"
            elif np.ptp(matrix[:, column]) == 0:
                reason = f"{figure} is the same in all"
            elif alone is None:
                reason = f"{number} values in {count} trials are too many to tell apart"
            beyond = None if alone is None else interval(f"beyond {name}")
            shares[name] = Share(values=number, alone=alone, beyond=beyond, reason=reason)
        together = interval("together") if designs else None
        found.append(Importance(figure=figure, trials=count, together=together, shares=shares))
    return found


def effects(choices: Mapping[str, Sequence[str]], figures: Mapping[str, Array]) -> dict[str, list[Effect]]:
    """By choice that varies, its values, those with the largest mean of the first figure first; Student's intervals of
    the means. Nothing of a choice of more values than there are trials for."""
    first = next(iter(figures))
    found = {}
    for name, chosen in choices.items():
        groups = {value: [i for i, one in enumerate(chosen) if one == value] for value in dict.fromkeys(chosen)}
        if 1 < len(groups) <= len(chosen) / REPEATS:
            rows = [
                Effect(value=value, trials=len(rows), means={f: _mean(v[rows]) for f, v in figures.items()})
                for value, rows in groups.items()
            ]
            found[name] = sorted(rows, key=lambda effect: -effect.means[first].mean)
    return found


def _mean(values: Array) -> Interval:
    found = mean_interval(values.tolist())
    assert found is not None, "a group has members"
    return found


def _design(chosen: Sequence[str]) -> Array:
    """(n, k) indicators of the k values."""
    values = list(dict.fromkeys(chosen))
    return np.asarray(np.array(chosen)[:, None] == np.array(values)[None, :], dtype=np.float64)


def _explained(designs: Mapping[str, Array], figures: Array) -> dict[str, Array]:
    """By term, the (m,) adjusted R² of (n, m) figures, NaN where it has none."""
    together = _adjusted(list(designs.values()), figures)
    found = {"together": together}
    for name, design in designs.items():
        found[f"alone {name}"] = _adjusted([design], figures)
        others = [other for key, other in designs.items() if key != name]
        found[f"beyond {name}"] = together - (_adjusted(others, figures) if others else 0.0)
    return found


def _adjusted(designs: Sequence[Array], figures: Array) -> Array:
    """(m,) adjusted R² of the sum of the designs' effects on (n, m) figures; NaN where too few trials are left, or a
    figure does not vary."""
    count = len(figures)
    missing = np.full(figures.shape[1], np.nan)
    if count <= FREEDOM or not designs:
        return missing
    columns = np.hstack([np.ones((count, 1)), *designs])
    solution, _, rank, _ = np.linalg.lstsq(columns, figures, rcond=None)
    freedom = count - rank
    total = np.square(figures - figures.mean(axis=0)).sum(axis=0)
    varies = (np.ptp(figures, axis=0) > 0) & (freedom >= FREEDOM)
    rest = np.square(figures - columns @ solution).sum(axis=0)
    shares = 1 - (rest / max(1, freedom)) / np.where(varies, total / (count - 1), 1.0)
    return np.where(varies, shares, missing)


def _jackknife(value: float, without: Sequence[float]) -> Interval:
    """A figure of all, with the interval from those of all but one part each."""
    count = len(without)
    pseudo = [count * value - (count - 1) * left for left in without]
    spread = mean_interval(pseudo) if np.isfinite(pseudo).all() else None
    return Interval(value, None if spread is None else spread.half, count)
