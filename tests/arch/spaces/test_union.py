from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from detsearch.arch.code import parse_detector
from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.listed import ListedSpace
from detsearch.arch.spaces.union import Union
from detsearch.arch.spec import DetectorSpec


def listed(*widths: int) -> ListedSpace:
    texts = (f"basicblock_8_1-1-1-1/fpn(width={width})/retinanet@128x128" for width in widths)
    return ListedSpace(tuple(map(parse_detector, texts)))


@pytest.fixture
def union() -> Union:
    return Union((listed(8, 16, 24), listed(32, 40)))


def test_members(union: Union) -> None:
    members = list(union.all())
    assert union.size() == len(set(members)) == 5
    assert [union.part_of(spec) for spec in members] == [0, 0, 0, 1, 1]
    other = next(listed(48).all())
    assert union.part_of(other) is None
    assert not union.contains(other)
    assert all(map(union.contains, members))


def test_neighbours_stay_within_a_part(union: Union) -> None:
    rng = np.random.default_rng(0)
    for spec in union.all():
        near = set(union.neighbours(spec))
        assert near == {other for other in union.all() if other != spec and union.part_of(other) == union.part_of(spec)}
        assert {union.mutate(spec, rng) for _ in range(30)} == near
    stranger = next(listed(48).all())
    assert list(union.neighbours(stranger)) == []
    assert union.mutate(stranger, rng) == stranger


def test_parts_have_equal_chances(union: Union) -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(union.part_of(union.sample(rng)) for _ in range(400))
    assert drawn.keys() == {0, 1}
    assert 160 < drawn[0] < 240


def test_it_is_a_space(union: Union) -> None:
    space: Space = union
    spec: DetectorSpec = space.sample(np.random.default_rng(1))
    assert space.contains(spec)
