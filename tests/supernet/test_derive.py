"""From alpha to a cell, by hand and for any alpha."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detsearch.arch.cells import SETS, CellSpec, edges_of
from detsearch.errors import TrainingError
from detsearch.supernet.cells import Architecture
from detsearch.supernet.derive import Choice, derive, entropy, settled

OPERATIONS = ("std1", "sep2", "std2d2")


def test_by_hand():
    alpha = torch.tensor(
        [
            [0.0, 2.0, 0.0, 0.0],  # 2 from 0: sep2
            [0.0, 0.0, 1.0, 9.0],  # 2 from 1: none is strongest, then std2d2
            [3.0, 0.0, 0.0, 5.0],  # 3 from 0: std1, with little of it left beside none
            [0.0, 0.0, 2.0, 0.0],  # 3 from 1: std2d2
            [0.0, 1.0, 0.0, 0.0],  # 3 from 2: sep2
        ]
    )
    assert str(derive(alpha, OPERATIONS, 2)) == "sep2(0)+std2d2(1)|std2d2(1)+sep2(2)"


def test_none_takes_its_share_from_an_edge_and_is_never_chosen():
    alpha = torch.zeros(5, 4)
    alpha[2:, 0] = torch.tensor([1.0, 0.9, 0.8])
    assert str(derive(alpha, OPERATIONS, 2)).split("|")[1] == "std1(0)+std1(1)"
    alpha[2, -1] = 3
    assert str(derive(alpha, OPERATIONS, 2)).split("|")[1] == "std1(1)+std1(2)"
    alpha[:, -1] = 50
    assert {edge.operation for node in derive(alpha, OPERATIONS, 2).nodes for edge in node} == {"std1"}


def test_of_equals_the_earlier_operation_and_source():
    assert str(derive(torch.zeros(9, 4), OPERATIONS, 3)) == "|".join(["std1(0)+std1(1)"] * 3)


@given(st.integers(0, 2**32), st.integers(1, 4), st.floats(-3, 3))
def test_any_alpha_gives_a_cell(seed, nodes, shift):
    alpha = torch.randn(len(edges_of(nodes)), 13, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cell = derive(alpha, SETS["full"], nodes)
    assert CellSpec.parse(str(cell)) == cell
    assert [len(edges) for edges in cell.nodes] == [2] * nodes
    weights = alpha.softmax(dim=-1)[:, :-1]
    rows = dict(zip(edges_of(nodes), weights, strict=True))
    for node, edges in enumerate(cell.nodes, 2):
        kept = {edge.source for edge in edges}
        for edge in edges:
            assert SETS["full"].index(edge.operation) == int(rows[node, edge.source].argmax())
            dropped = [rows[node, source].max() for source in range(node) if source not in kept]
            assert all(rows[node, edge.source].max() >= other for other in dropped)
    assert derive(alpha + shift, SETS["full"], nodes) == cell  # what is added to a whole row changes no softmax


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_alpha_that_is_not_finite_is_one_clear_line(value):
    alpha = torch.zeros(2, 4)
    alpha[1, 2] = value
    with pytest.raises(TrainingError, match=r"alpha is no longer finite; lower .*alpha_lr") as raised:
        derive(alpha, OPERATIONS, 1)
    assert "\n" not in str(raised.value)


def test_entropy():
    assert entropy(torch.zeros(9, 13)) == pytest.approx(math.log(13))
    decided = torch.zeros(9, 13)
    decided[:, 4] = 1e4
    assert entropy(decided) == 0
    assert entropy(torch.cat([torch.zeros(1, 13), decided[:1]])) == pytest.approx(math.log(13) / 2)


def test_choices_are_recorded_and_compared():
    architecture = Architecture(["boxes", "classes"], SETS["full"], generator=torch.Generator().manual_seed(0))
    first = Choice.of(architecture, 10)
    assert Choice.read(json.loads(json.dumps(first.record()))) == first
    assert not settled([])
    assert not settled([first])
    again = Choice.of(architecture, 20)
    assert settled([first, again])
    with torch.no_grad():
        architecture.alpha["classes"][0, 5] += 1
    third = Choice.of(architecture, 30)
    assert third.cells["boxes"] == first.cells["boxes"]
    assert third.cells["classes"] != first.cells["classes"]
    assert third.entropy["classes"] < first.entropy["classes"]
    assert not settled([first, again, third])
