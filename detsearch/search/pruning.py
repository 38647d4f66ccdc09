"""Partial order pruning (Li et al., "Partial Order Pruning: for Best Speed/Accuracy Trade-off in Neural Architecture
Search", CVPR 2019): leave out candidates that cannot improve the front, before they are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from detsearch.arch.spec import DetectorSpec
from detsearch.search.inheritance import inherited_epochs
from detsearch.search.objective import Objective
from detsearch.search.pareto import matrix, measured
from detsearch.search.trial import Trial
from detsearch.types import CostMetrics, Fidelity

Leq: TypeAlias = Callable[[DetectorSpec, DetectorSpec], bool]
"""``leq(a, b)``: is b the same as a, or deeper or wider and otherwise the same?"""


def prune_reason(
    spec: DetectorSpec,
    cost: CostMetrics,
    history: Sequence[Trial],
    *,
    leq: Leq,
    objectives: Sequence[Objective],
    fidelity: Fidelity,
    slack: float = 0.0,
    inherited: int = 0,
) -> str | None:
    """Why a candidate cannot improve the front, or None where that is not shown.

    The assumption: a deeper or wider network, otherwise equal, is at least as accurate, that is, at least as large in
    every objective that is not in `cost`, the figures known before training. It says nothing of such an objective that
    is minimised (train_seconds), so with one of those nothing is pruned. Where all are maximised, a candidate x is out
    if there are measured y and z with leq(x, y), z at least as good as y (hence as x) in every such objective, and z at
    least as good as x in every known one. z may be y. Under the assumption no *value* of the true front is lost; of two
    candidates with equal values one may be.

    `slack` guards against noise: z must be better than y by at least that much, in the unit of the objective (AP).
    Only complete trials of `fidelity` are compared, since values of different fidelity say nothing about each other.
    `inherited` are the epochs for which the weights that the candidate would begin with were trained: y must have begun
    with as many, or else it shows less of what its network can do than x would (see `inheritance`).
    Where latency is an objective, one that was not steady says nothing either: its trial is no witness, and a candidate
    that has one is kept.
    """
    costs = cost.values()
    known = [objective for objective in objectives if objective.name in costs]
    unknown = [objective for objective in objectives if objective.name not in costs]
    by_latency = any(objective.name == "latency_ms" for objective in known)
    if not all(objective.maximise for objective in unknown) or (by_latency and not _steady(cost)):
        return None
    trials = [t for t in measured(history, objectives, fidelity) if not by_latency or _steady(t.cost)]
    signed = np.array([(-1.0 if o.maximise else 1.0) * costs[o.name] for o in known])
    cheap_enough = (matrix(trials, known) <= signed).all(axis=1)  # NaN costs compare as False
    if not cheap_enough.any():
        return None
    accuracy = matrix(trials, unknown)
    rivals = np.flatnonzero(cheap_enough)
    for index, larger in enumerate(trials):
        better = (accuracy[rivals] <= accuracy[index] - slack).all(axis=1)
        if better.any() and inherited_epochs(larger) >= inherited and leq(spec, larger.spec):
            rival = trials[rivals[np.argmax(better)]]
            return _reason(larger, rival, costs, known, unknown)
    return None


def _steady(cost: CostMetrics | None) -> bool:
    return cost is not None and cost.latency is not None and cost.latency.steady


def _reason(
    larger: Trial, rival: Trial, costs: Mapping[str, float], known: Sequence[Objective], unknown: Sequence[Objective]
) -> str:
    def figures(values: Mapping[str, float], objectives: Sequence[Objective]) -> str:
        return ", ".join(f"{objective.name}={values[objective.name]:.6g}" for objective in objectives)

    y, z = larger.values(), rival.values()
    return (
        f"trial {larger.number}, as deep and wide or more, has {figures(y, unknown)}; "
        f"trial {rival.number} has {figures(z, [*unknown, *known])}; this one has {figures(costs, known)}"
    )
