"""First generations that show every part of a space: all kinds of module and all choices, or all of a scale of cost, as
evenly as possible."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detsearch.arch.spaces.base import Graded, Space
from detsearch.arch.spec import SLOTS, DetectorSpec
from detsearch.search.trial import GIVEN, LOST, RANDOM, SURVEY, Trial, taken

TRIES: Final = 3
"""So often a choice that no member has yet comes first: one that always fails, or is always too dear, must not hold up
the others."""

LISTED: Final = 20_000
"""First members are chosen from all candidates of a space that has no more than these, ..."""
DRAWS: Final = 500
"""... or else from so many that are drawn, ..."""
DRAWS_OF_PART: Final = 12
"""... and in a space with a scale of cost from so many that are drawn from a part of it."""


@dataclass(frozen=True)
class Opening:
    """The first `count` members of a search, which together show every kind of module and every choice, as far as their
    number allows, and as evenly as possible; detectors that were given count, pruned and failed ones are replaced.

    In a space with a scale of cost (`Graded`) they are stratified: one from each of `count` equal parts of the scale.
    Drawn freely, some parts would have several and others none.
    """

    space: Space
    count: int

    def next(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> DetectorSpec | None:
        """The next of them, drawn; None where there are enough or no others."""
        trials = (*history, *running)
        kept = [trial for trial in trials if trial.state not in LOST and trial.origin != SURVEY]
        if sum(trial.origin in (RANDOM, GIVEN) for trial in kept) >= self.count:
            return None
        members = {trial.spec for trial in kept}
        return self.beside(members, taken(trials) - members, rng)

    def beside(
        self, members: Set[DetectorSpec], lost: Set[DetectorSpec], rng: np.random.Generator
    ) -> DetectorSpec | None:
        """One that shows what these `members` do not show yet, and is none of what was `lost`; None where there are no
        others."""
        # Where all members are wanted there is nothing to spread, and drawing would take long to find the last ones.
        if isinstance(self.space, Graded) and self.space.size() > self.count:
            return self._stratified(self.space, members, lost, rng)
        return self._pool(rng).next(members, lost, rng)

    def _stratified(
        self, space: Graded, members: Set[DetectorSpec], lost: Set[DetectorSpec], rng: np.random.Generator
    ) -> DetectorSpec | None:
        """From a part of the scale with the fewest members; of equals, one in which the fewest were lost, at random."""
        has, missed = (self._by_part(space, specs) for specs in (members, lost))
        # Where all candidates of a part are lost again and again, it must not hold up the others.
        order = np.lexsort((rng.random(self.count), missed, has + (missed >= TRIES)))
        for part in order.tolist():
            ends = part / self.count, (part + 1) / self.count
            drawn = dict.fromkeys(space.sample_between(rng, *ends) for _ in range(DRAWS_OF_PART))
            # A draw is near to what was wanted: at the edges it may belong to the next part.
            own = [spec for spec in drawn if self._part(space, spec) == part] or list(drawn)
            if (found := Coverage(own).next(members, lost, rng)) is not None:
                return found
        return None

    def _by_part(self, space: Graded, specs: Iterable[DetectorSpec]) -> NDArray[np.int64]:
        """How many detectors lie in each part."""
        parts = np.array([self._part(space, spec) for spec in specs], dtype=np.int64)
        return np.bincount(parts, minlength=self.count)

    def _part(self, space: Graded, spec: DetectorSpec) -> int:
        """The part of the scale that a detector lies in; those beyond it count at its ends."""
        return min(max(0, math.floor(space.place(spec) * self.count)), self.count - 1)

    def _pool(self, rng: np.random.Generator) -> Coverage:
        if self.space.size() <= LISTED:
            return self._whole
        return Coverage(list(dict.fromkeys(self.space.sample(rng) for _ in range(DRAWS))))

    @cached_property
    def _whole(self) -> Coverage:
        return Coverage(list(self.space.all()))


class Coverage:
    """What the candidates of `pool` (at least one) are made of, as an array of numbers, so that all of them are
    compared at once."""

    def __init__(self, pool: Sequence[DetectorSpec]) -> None:
        self.pool = pool
        self._place = {spec: place for place, spec in enumerate(pool)}
        self._numbers: dict[Hashable, int] = {}
        table = [[self._numbers.setdefault(made, len(self._numbers)) for made in _made_of(spec)] for spec in pool]
        self._table = np.array(table, dtype=np.int32)

    def next(
        self, members: Iterable[DetectorSpec], lost: Iterable[DetectorSpec], rng: np.random.Generator
    ) -> DetectorSpec | None:
        """A candidate of the pool that is neither a member nor lost, None where there is none.

        It is drawn from those that bring the most kinds and choices that no member has; among these, from those whose
        choices were tried least.
        """
        members, lost = list(members), list(lost)
        has = self._count(members)
        tried = has + self._count(lost)
        free = np.ones(len(self.pool), dtype=bool)
        free[[self._place[spec] for spec in (*members, *lost) if spec in self._place]] = False
        if not free.any():
            return None
        missing = (has == 0) & (tried < TRIES)
        new, load = missing[self._table].sum(axis=1), tried[self._table[:, _CHOICES]].sum(axis=1)
        free &= new == new[free].max()
        free &= load == load[free].min()
        return self.pool[int(rng.choice(np.flatnonzero(free)))]

    def _count(self, specs: Iterable[DetectorSpec]) -> NDArray[np.int64]:
        """How many specs have each kind and choice of the pool."""
        known = [self._numbers[made] for spec in specs for made in _made_of(spec) if made in self._numbers]
        return np.bincount(np.array(known, dtype=np.int64), minlength=len(self._numbers))


_CHOICES: Final = slice(len(SLOTS), None)
"""Where the choices stand among what a detector is made of."""


def kinds_of(spec: DetectorSpec) -> list[Hashable]:
    """The kind of module in each slot."""
    return [(slot, type(spec.network.part(slot))) for slot in SLOTS]


def _made_of(spec: DetectorSpec) -> list[Hashable]:
    """The kinds, then the choice for each part."""
    parts = [(slot, spec.network.part(slot)) for slot in SLOTS]
    return [*kinds_of(spec), *parts, ("norm", spec.network.norm), ("input", spec.input)]
