"""What a recorded table says of itself: noise between seeds, ranks of early figures, the partial order's mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detsearch.errors import RecipeError
from detsearch.search.correlation import Array, rank_correlation
from detsearch.search.objective import Objective, check_objectives
from detsearch.search.pareto import non_dominated
from detsearch.search.pruning import Leq
from detsearch.search.table import Row, Table
from detsearch.types import Fidelity


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityFacts:
    """Of one figure after so many epochs: `quantiles` over the detectors (least, quarter, median, three quarters, most;
    means over seeds), `noise` the standard deviation of one training, `between_seeds` and `to_full` the rank
    correlations of two seeds and of one seed with the full training's mean (NaN where there is one seed)."""

    epochs: int
    quantiles: tuple[float, ...]
    noise: float
    between_seeds: float
    to_full: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFacts:
    """Of `pairs` of detectors of which one is deeper or wider and otherwise the same: in how many the larger one has
    the smaller figure at full fidelity (`violated`), by more than `margin` (`clearly`), and in how many it is cheaper.
    """

    pairs: int
    violated: int
    clearly: int
    margin: float
    cheaper: int


def read_objectives(table: Table, texts: Sequence[str]) -> tuple[Objective, ...]:
    """Two objectives or more, each of which some detector of the table has in full; RecipeError otherwise."""
    objectives = tuple(map(Objective.parse, texts))
    check_objectives(objectives)
    if len(objectives) < 2:
        raise RecipeError("objectives", "accuracy and a cost, such as ap:max,latency_ms:min", ",".join(texts))
    for objective, values in zip(objectives, table.values(objectives).T, strict=True):
        if not np.isfinite(values).any():
            raise RecipeError("objectives", "figures that the table has", objective.name)
    return objectives


def fidelity_facts(table: Table, figure: str) -> list[FidelityFacts]:
    """The facts for every fidelity that the table has."""
    full = by_seed(table, figure, table.full)
    count = full.shape[1]
    # One seed against the mean of the others where there are others: no training is compared with itself.
    others = [np.delete(full, seed, axis=1) if count > 1 else full for seed in range(count)]
    found = []
    for epochs in table.epochs:
        values = by_seed(table, figure, Fidelity(epochs))
        complete = values[np.isfinite(values).all(axis=1)]
        known = values[np.isfinite(values).any(axis=1)]
        between = [rank_correlation(values[:, a], values[:, b]) for a in range(count) for b in range(a)]
        to_full = [rank_correlation(values[:, seed], others[seed].mean(axis=1)) for seed in range(count)]
        found.append(
            FidelityFacts(
                epochs=epochs,
                quantiles=tuple(np.quantile(np.nanmean(known, axis=1), [0, 0.25, 0.5, 0.75, 1]).tolist()),
                noise=float(np.sqrt(complete.var(axis=1, ddof=1).mean())) if count > 1 and len(complete) else np.nan,
                between_seeds=float(np.mean(between)) if between else np.nan,
                to_full=float(np.mean(to_full)),
            )
        )
    return found


def order_facts(table: Table, leq: Leq, accuracy: Objective, cost: Objective, margin: float) -> OrderFacts:
    """How often the assumption of pruning is wrong: a larger one that is less accurate."""
    values = table.values([accuracy, cost])
    rows = [(row, v) for row, v in zip(table.rows, values, strict=True) if np.isfinite(v).all()]
    pairs = [(v, w) for small, v in rows for large, w in rows if small is not large and leq(small.spec, large.spec)]
    losses = np.array([w[0] - v[0] for v, w in pairs])
    return OrderFacts(
        pairs=len(pairs),
        violated=int((losses > 0).sum()),
        clearly=int((losses > margin).sum()),
        margin=margin,
        cheaper=sum(w[1] < v[1] for v, w in pairs),
    )


def true_front(table: Table, objectives: Sequence[Objective]) -> list[tuple[Row, Array]]:
    """The detectors that none dominates by means over seeds, with these means for minimisation; cheapest last objective
    first."""
    values = table.values(objectives)
    best = np.flatnonzero(non_dominated(values))
    return [(table.rows[index], values[index]) for index in best[np.argsort(values[best, -1], kind="stable")]]


def by_seed(table: Table, figure: str, fidelity: Fidelity) -> Array:
    """(detectors, seeds) values, NaN where there is none."""
    found = np.full((len(table.rows), len(table.seeds)), np.nan)
    for index, row in enumerate(table.rows):
        for column, seed in enumerate(table.seeds):
            if seed in row.trainings:
                found[index, column] = row.trainings[seed].figures.get(fidelity.epochs, {}).get(figure, np.nan)
    return found
