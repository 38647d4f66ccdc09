"""Spaces of cells."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from detsearch.arch.cells import PUBLISHED_BOXES, PUBLISHED_CLASSES, SETS, CellSpec
from detsearch.arch.spaces.cells import CellSpace
from detsearch.errors import SpecError

SMALL = CellSpace(("std1", "sep2"), nodes=2)
TINY = CellSpace(("std1", "sep2", "skip"), nodes=2, inputs=1)


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (CellSpace(SETS["full"]), 18 * 12**6),
        (CellSpace(SETS["darts"]), 18 * 7**6),
        (CellSpace(SETS["full"], inputs=1), 2 * 3 * 4 * 12**3),
        (CellSpace(SETS["full"], nodes=1), 144),
        (SMALL, 3 * 16),
        (TINY, 2 * 3 * 9),
    ],
)
def test_exact_size(space: CellSpace, size: int) -> None:
    """1 x 3 x 6 choices of two sources for the nodes, and an operation for each edge."""
    assert space.size() == size


@pytest.mark.parametrize("space", [SMALL, TINY])
def test_a_small_space_from_end_to_end(space: CellSpace) -> None:
    members = list(space.all())
    assert len(members) == len(set(members)) == space.size()
    assert all(map(space.contains, members))
    around = {cell: list(space.neighbours(cell)) for cell in members}
    for cell, near in around.items():
        assert cell not in near
        assert len(set(near)) == len(near)
        assert all(space.contains(other) and cell in around[other] for other in near)
    rng = np.random.default_rng(0)
    counts = Counter(space.sample(rng) for _ in range(100 * len(members)))
    excess = sum((counts[cell] - 100) ** 2 / 100 for cell in members)
    assert excess < len(members) + 4 * np.sqrt(2 * len(members)) + 10, "uniform"
    cell = members[7]
    assert {space.mutate(cell, rng) for _ in range(100 * len(around[cell]))} == set(around[cell])


def test_the_papers_space_is_walked_without_listing_it() -> None:
    space = CellSpace(SETS["full"])
    assert space.contains(PUBLISHED_BOXES)
    assert space.contains(PUBLISHED_CLASSES)
    assert len(set(islice(space.all(), 1000))) == 1000
    assert len(list(space.neighbours(PUBLISHED_BOXES))) == 6 * 11 + 2 * 1 + 2 * 2
    rng, cell = np.random.default_rng(1), PUBLISHED_BOXES
    for _ in range(100):
        assert (cell := space.mutate(cell, rng)) in set(space.neighbours(cell)) | {cell}
        assert space.contains(cell)


def test_outsiders() -> None:
    for text in ("std1(0)+sep2(1)", "std1(0)|std1(0)+sep2(1)", "std1(0)+std2(1)|std1(0)+sep2(1)"):
        cell = CellSpec.parse(text)
        assert not SMALL.contains(cell)
    far = CellSpec.parse("std3(0)+std2(1)|std1(0)+sep2(1)")
    assert list(SMALL.neighbours(far)) == []
    assert SMALL.mutate(far, np.random.default_rng(0)) == far
    near = CellSpec.parse("std3(0)+std1(1)|std1(0)+sep2(1)")
    assert {str(cell)[:15] for cell in SMALL.neighbours(near)} == {"std1(0)+std1(1)", "sep2(0)+std1(1)"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (((),), "operations: expected one or more, each once, got none"),
        ((("std1", "std1"),), "operations: expected one or more, each once, got std1 std1"),
        ((("std1", "std9"),), "operations: expected an operation"),
        ((("std1",), 0), "nodes: expected 1 to 8, got 0"),
        ((("std1",), 3, 3), "inputs: expected 1 to 2, got 3"),
    ],
)
def test_refusals(values: tuple, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SpecError) as caught:
        CellSpace(*values)
    assert message in str(caught.value)
