"""What every space must do. A test module derives from `SpaceContract` and gives a small space of its kind."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.spaces.base import Space
from detsearch.arch.spec import DetectorSpec


class SpaceContract:
    """`space` must be small (some dozens of members), connected, and leave `outsider` out."""

    @pytest.fixture
    def space(self) -> Space:
        raise pytest.UsageError("a contract needs a space")

    @pytest.fixture
    def outsider(self) -> DetectorSpec:
        return parse_detector("basicblock_10_1-1-1-1/fpn(width=10)/retinanet(depth=7)@704x192")

    def test_all_gives_every_member_once(self, space: Space) -> None:
        members = list(space.all())
        assert space.size() == len(members) == len(set(members)) > 1
        assert list(space.all()) == members, "always in the same order"
        assert all(map(space.contains, members))

    def test_every_member_is_valid_and_has_a_text(self, space: Space) -> None:
        for spec in space.all():
            catalogue().check(spec.network)
            catalogue().check_input(spec)
            assert parse_detector(format_detector(spec)) == spec

    def test_others_are_not_contained(self, space: Space, outsider: DetectorSpec) -> None:
        assert not space.contains(outsider)
        first = next(space.all())
        assert not space.contains(outsider.network.at(first.input))
        assert not space.contains(first.network.at(outsider.input))

    def test_samples_are_uniform(self, space: Space) -> None:
        """Chi-square over all members: a right sampler fails this once in 10,000 seeds, and the seed is fixed."""
        rng, size = np.random.default_rng(0), space.size()
        counts = Counter(space.sample(rng) for _ in range(50 * size))
        assert set(counts) == set(space.all())
        excess = sum((count - 50) ** 2 / 50 for count in counts.values())
        assert excess < (size - 1) + 4 * np.sqrt(2 * (size - 1)) + 10

    def test_the_seed_decides(self, space: Space) -> None:
        def walk(seed: int) -> list[DetectorSpec]:
            rng = np.random.default_rng(seed)
            path = [space.sample(rng)]
            for _ in range(20):
                path.append(space.mutate(path[-1], rng))
            return path

        assert walk(1) == walk(1)
        assert walk(1) != walk(2)

    def test_neighbours_are_symmetric_members(self, space: Space) -> None:
        around = {spec: list(space.neighbours(spec)) for spec in space.all()}
        for spec, near in around.items():
            assert spec not in near
            assert len(set(near)) == len(near)
            assert all(space.contains(other) and spec in around[other] for other in near)

    def test_mutations_are_neighbours_and_reach_each_of_them(self, space: Space) -> None:
        rng = np.random.default_rng(0)
        spec = space.sample(rng)
        near = set(space.neighbours(spec))
        assert {space.mutate(spec, rng) for _ in range(60 * len(near))} == near

    def test_connected(self, space: Space) -> None:
        start = next(space.all())
        seen, todo = {start}, [start]
        while todo:
            new = set(space.neighbours(todo.pop())) - seen
            seen |= new
            todo += new
        assert len(seen) == space.size()
