from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from detsearch.arch.partial_order import leq
from detsearch.search.table import Table, Training
from detsearch.search.tablefacts import fidelity_facts, order_facts, true_front
from tests.search.generated import CHOICES, OBJECTIVES, generated

SMALL = {**CHOICES, "neck": CHOICES["neck"][1:2], "head": CHOICES["head"][:1], "proposals": ["none"]}
TABLE = generated(0, choices=SMALL)


def with_figures(figures: list[list[list[float]]]) -> Table:
    """By detector, seed and epochs (1, 2)."""
    rows = tuple(
        replace(row, trainings={s: Training({e + 1: {"ap": v} for e, v in enumerate(t)}) for s, t in enumerate(found)})
        for row, found in zip(TABLE.rows, figures, strict=False)
    )
    return Table(rows=rows)


def test_facts_of_a_small_table() -> None:
    early, late = fidelity_facts(
        with_figures([[[0.1, 0.2], [0.3, 0.4]], [[0.2, 0.6], [0.2, 0.6]], [[0.0, 0.8], [0.1, 0.9]]]), "ap"
    )
    assert (early.epochs, late.epochs) == (1, 2)
    assert early.quantiles == pytest.approx((0.05, 0.125, 0.2, 0.2, 0.2))
    assert late.noise == pytest.approx(math.sqrt((0.02 + 0 + 0.005) / 3))
    assert late.between_seeds == pytest.approx(1)
    assert late.to_full == pytest.approx(1)
    # Seed 0 ranks 0.1, 0.2, 0.0 against 0.4, 0.6, 0.9; seed 1 ranks 0.3, 0.2, 0.1 against 0.2, 0.6, 0.8.
    assert early.to_full == pytest.approx((-0.5 - 1) / 2)
    assert early.between_seeds == pytest.approx(0.5)


def test_one_seed_has_no_noise() -> None:
    (facts,) = fidelity_facts(with_figures([[[0.1]], [[0.3]], [[0.2]]]), "ap")
    assert math.isnan(facts.noise)
    assert math.isnan(facts.between_seeds)
    assert facts.to_full == pytest.approx(1)


def test_mistakes_of_the_partial_order() -> None:
    """The narrow backbone of each input against the two wider ones: 3 inputs, and both wider ones among themselves."""
    facts = order_facts(TABLE, leq, *OBJECTIVES, 0.01)
    backbones = [row.spec.network.backbone for row in TABLE.rows]
    pairs = [
        (a, b) for a, x in enumerate(TABLE.rows) for b, y in enumerate(TABLE.rows) if a != b and leq(x.spec, y.spec)
    ]
    values = TABLE.values(OBJECTIVES)
    assert facts.pairs == len(pairs) > 0
    assert facts.violated == sum(values[b, 0] > values[a, 0] for a, b in pairs)
    assert facts.clearly == sum(values[b, 0] > values[a, 0] + 0.01 for a, b in pairs)
    assert facts.cheaper == sum(values[b, 1] < values[a, 1] for a, b in pairs)
    assert len(set(backbones)) == 4


def test_the_true_front_is_of_means() -> None:
    best = true_front(TABLE, OBJECTIVES)
    costs = [point[1] for _, point in best]
    assert costs == sorted(costs)
    assert all(a[1][0] > b[1][0] for a, b in itertools.pairwise(best)), "dearer ones are better"
