"""Cells as data: operations, text, what is refused."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detsearch.arch.cells import (
    MASK_CELL,
    OPERATIONS,
    ORIGINS,
    PUBLISHED_BOXES,
    PUBLISHED_CLASSES,
    SETS,
    CellSpec,
    Edge,
    Operation,
    edges_of,
)
from detsearch.errors import SpecError
from tests.arch.toys import cell_specs


def test_the_twelve_transformations_and_their_receptive_fields() -> None:
    """FAD, sec. 3: t1 to t6 see 3, 5, 7, 7, 9, 9 places in either stream."""
    six = ["1", "2", "3", "1d2", "2d2", "1d3"]
    assert SETS["full"] == tuple(stream + one for stream in ("std", "sep") for one in six)
    assert [OPERATIONS[token].receptive_field for token in SETS["full"]] == [3, 5, 7, 7, 9, 9] * 2
    assert OPERATIONS["std2d2"].dilation == 2
    assert OPERATIONS["sep1d3"] == Operation("sep1d3", 9, "sep", 1, 3)


def test_subsets_are_those_of_the_ablations() -> None:
    sizes = {name: len(tokens) for name, tokens in SETS.items()}
    assert sizes == {"full": 12, "rf5": 4, "rf7": 8, "std": 6, "sep": 6, "darts": 7}
    assert SETS["rf5"] == ("std1", "std2", "sep1", "sep2")
    assert {OPERATIONS[token].receptive_field for token in SETS["rf7"]} == {3, 5, 7}
    assert all(OPERATIONS[token].stream is None for token in SETS["darts"])
    assert set(OPERATIONS) == {*SETS["full"], *SETS["darts"]}


@given(cell_specs())
def test_text_there_and_back(cell: CellSpec) -> None:
    assert CellSpec.parse(str(cell)) == cell
    spaced = re.sub(r"([+|()])", r" \1 ", str(cell))
    assert CellSpec.parse(spaced) == cell


@given(cell_specs(), st.randoms())
def test_the_order_of_edges_makes_no_difference(cell: CellSpec, rng: random.Random) -> None:
    shuffled = CellSpec(tuple(tuple(rng.sample(edges, len(edges))) for edges in cell.nodes))
    assert shuffled == cell
    assert str(shuffled) == str(cell)
    assert hash(shuffled) == hash(cell)


def test_published_cells() -> None:
    """As the paper writes them, edges in its order."""
    boxes = "sep3(0)+std3(1)|std1(2)+sep1d2(1)|sep2(2)+std2(3)"
    classes = "sep2d2(1)+std3(0)|sep2d2(0)+sep1(2)|sep2(2)+std1(3)"
    assert CellSpec.parse(boxes) == PUBLISHED_BOXES
    assert CellSpec.parse(classes) == PUBLISHED_CLASSES
    assert str(PUBLISHED_BOXES) == "sep3(0)+std3(1)|sep1d2(1)+std1(2)|sep2(2)+std2(3)"
    assert PUBLISHED_BOXES.receptive_fields() == ((7, 7), (7, 3), (5, 5))
    assert PUBLISHED_CLASSES.receptive_fields() == ((7, 9), (9, 3), (5, 3))


def test_known_cells_say_where_they_come_from() -> None:
    assert ORIGINS[MASK_CELL].startswith("ours, ")
    assert all("published" in ORIGINS[cell] for cell in (PUBLISHED_BOXES, PUBLISHED_CLASSES))


def test_edges_of_a_supernet_cell() -> None:
    assert edges_of(1) == ((2, 0), (2, 1))
    assert edges_of(3) == ((2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2), (4, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cell at character 1: expected an edge such as sep3(0), got nothing"),
        ("sep3", "cell at character 1: expected an edge such as sep3(0), got 'sep3'"),
        ("sep3(0)+", "cell at character 9: expected an edge such as sep3(0), got nothing"),
        ("sep3(0)||std1(0)", "cell at character 9: expected an edge such as sep3(0), got nothing"),
        ("sep3(0)+spe3(1)", "cell at character 9: expected an operation (std1, "),
        ("sep3(0)+spe3(1)", "got 'spe3'; did you mean sep3?"),
        ("sep3(0)|std1(9)", "cell at character 9, node 3: expected edges from 0 to 2, the inputs and earlier nodes"),
        ("sep3(0)|std1(3)", "node 3: expected edges from 0 to 2, the inputs and earlier nodes, got std1(3)"),
        ("sep3(2)", "node 2: expected edges from 0 to 1, the inputs and earlier nodes, got sep3(2)"),
        ("sep3(0)+std1(0)", "node 2: expected every source once, got 0 2 times"),
        ("sep3(-1)", "cell at character 1: expected an edge such as sep3(0), got 'sep3(-1)'"),
        ("sep3(0)+sep3(٣)", "cell at character 9: expected an edge"),
        ("|".join(["std1(0)"] * 9), "cell: expected 1 to 8 nodes, got 9"),
        ("sep3(" * 1000, "expected an edge"),
    ],
)
def test_refusals_say_where(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        CellSpec.parse(text)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_cells_that_are_no_cells() -> None:
    for nodes, message in (
        ((), "expected 1 to 8 nodes, got 0"),
        (((),), "node 2 of the cell: expected one or more edges, got none"),
        (((Edge("std9", 0),),), "node 2 of the cell: expected an operation"),
        (((Edge("std1", -1),),), "expected edges from 0 to 1"),
    ):
        with pytest.raises(SpecError) as caught:
            CellSpec(nodes)
        assert message in str(caught.value)
