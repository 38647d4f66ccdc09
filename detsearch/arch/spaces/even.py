"""Block codes spread evenly over what they cost.

Drawn uniformly, nearly all codes have as many blocks as are allowed, since there are so many more of them. Here the
cost is drawn first, evenly on a logarithmic scale, on which the steps of a front are alike; then a code of about that
cost: one of the smallest codes, grown block by block until it costs as much. So shallow and deep, narrow and wide codes
are compared at equal cost.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from detsearch.arch.blockcode import Block, BlockCode

STAGES: Final = 4
CLOSE: Final = 0.1
"""A code is taken whose cost is that near, as a logarithm, to the one that was drawn, ..."""
TRIES: Final = 20
"""... or else the nearest of so many."""


@dataclass(frozen=True)
class EvenCodes:
    """Codes of one kind of block with at most `depth` blocks: base widths among `bases`, numbers of doublings among
    `doublings`, and `cost` between `low` and `high`, more or less: by about what a block costs. Every such code is
    drawn some day.

    `cost` must grow with every block that is added.
    """

    block: Block
    bases: tuple[int, ...]
    doublings: tuple[int, ...]
    depth: int
    cost: Callable[[BlockCode], float]
    low: float = 0.0
    high: float = math.inf

    @cached_property
    def starts(self) -> tuple[tuple[float, BlockCode], ...]:
        """Cost and code of those from which no block can be taken that keeps the width, cheapest first."""
        codes = (
            BlockCode(self.block, base, tuple("2" * here or "1" for here in places))
            for base in self.bases
            for count in self.doublings
            for places in _sums(count, STAGES)
        )
        priced = [(self.cost(code), code) for code in codes if code.depth <= self.depth]
        return tuple(sorted(priced, key=lambda pair: pair[0]))

    @cached_property
    def extent(self) -> tuple[float, float]:
        """The least and the greatest cost of all codes. The dearest has all blocks that can be added in one stage,
        behind its doublings, and doublings come first in their stages."""
        fullest = (
            self.cost(BlockCode(code.block, code.base, _added(code.stages, at, self.depth - code.depth)))
            for _, code in self.starts
            for at in range(STAGES)
        )
        return self.starts[0][0], max(fullest)

    @cached_property
    def span(self) -> tuple[float, float]:
        """The costs that are drawn: between `low` and `high`, as far as there are codes."""
        least, most = self.extent
        return max(self.low, least), min(self.high, most)

    def place(self, code: BlockCode) -> float:
        """Where a code's cost lies in the span: 0 at its lower end, 1 at its upper one, even on a logarithmic scale."""
        low, high = self.span
        return math.log(self.cost(code) / low) / math.log(high / low) if low < high else 0.0

    def draw(self, rng: np.random.Generator, part: tuple[float, float] = (0.0, 1.0)) -> BlockCode:
        """A code of the span, or of a `part` of it, in the units of `place`."""
        low, high = (self.span[0] * (self.span[1] / self.span[0]) ** end for end in part)
        wanted = min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)
        # Those that are cheap enough to grow from, and the next one, which may be nearer than any of them can get.
        affordable = sum(cost <= wanted for cost, _ in self.starts)
        starts = [code for cost, code in self.starts[: affordable + 1] if cost <= high]
        best, least = starts[0], math.inf
        for _ in range(TRIES):
            found = self._nearest(self._grown(starts[int(rng.integers(len(starts)))], rng), wanted)
            off = abs(math.log(self.cost(found) / wanted))
            if off < least:
                best, least = found, off
            if off <= CLOSE:
                break
        return best

    def _nearest(self, grown: Sequence[BlockCode], wanted: float) -> BlockCode:
        above = bisect_left(grown, wanted, key=self.cost)
        if above in (0, len(grown)):
            return grown[min(above, len(grown) - 1)]
        less, more = grown[above - 1], grown[above]
        return less if wanted**2 < self.cost(less) * self.cost(more) else more

    def _grown(self, code: BlockCode, rng: np.random.Generator) -> Sequence[BlockCode]:
        """A code, the same with a block more, and so on up to the greatest depth. Blocks prefer some stages to others,
        as drawn, and come in at any place."""
        count = self.depth - code.depth
        stages = rng.choice(STAGES, count, p=rng.dirichlet(np.ones(STAGES)))
        return _Growth(code, stages.tolist(), rng.random(count).tolist())


class _Growth(Sequence[BlockCode]):
    """Codes made where they are looked at: a search among them sees few."""

    def __init__(self, code: BlockCode, stages: Sequence[int], places: Sequence[float]) -> None:
        self._code, self._stages, self._places = code, stages, places

    def __len__(self) -> int:
        return len(self._stages) + 1

    def __getitem__(self, index: int) -> BlockCode:  # type: ignore[override]  # no slices
        number = range(len(self))[index]
        stages = list(self._code.stages)
        for stage, place in zip(self._stages[:number], self._places[:number], strict=True):
            at = int(place * (len(stages[stage]) + 1))
            stages[stage] = f"{stages[stage][:at]}1{stages[stage][at:]}"
        return BlockCode(self._code.block, self._code.base, tuple(stages))


def _sums(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write `total` as an ordered sum of so many numbers from 0 on."""
    for cuts in itertools.combinations(range(total + parts - 1), parts - 1):
        ends = (-1, *cuts, total + parts - 1)
        yield tuple(b - a - 1 for a, b in itertools.pairwise(ends))


def _added(stages: tuple[str, ...], at: int, count: int) -> tuple[str, ...]:
    return (*stages[:at], stages[at] + "1" * count, *stages[at + 1 :])
