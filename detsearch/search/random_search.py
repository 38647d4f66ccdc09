"""Random search: the baseline, and what every other strategy falls back to."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from detsearch.arch.spaces.base import Space
from detsearch.arch.spec import DetectorSpec
from detsearch.search.trial import RANDOM, Proposal, Trial, taken

DRAWS: Final = 100
ENUMERATED: Final = 100_000
"""So many members of a space are listed when drawing alone finds nothing new."""


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Candidates drawn from the space, each at most once."""

    space: Space

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        spec = sample_unseen(self.space, taken((*history, *running)), rng)
        return None if spec is None else Proposal(spec=spec, origin=RANDOM)


def sample_unseen(space: Space, seen: Set[DetectorSpec], rng: np.random.Generator) -> DetectorSpec | None:
    """A member of the space that is not in `seen`, None where there is none left.

    Draws; only when that keeps returning what was seen, so when little is left, lists the rest and draws from it (in
    a space of more than `ENUMERATED` + len(seen) members, from the beginning of the rest).
    """
    for _ in range(DRAWS):
        spec = space.sample(rng)
        if spec not in seen:
            return spec
    rest = list(islice((spec for spec in space.all() if spec not in seen), ENUMERATED))
    return rest[rng.integers(len(rest))] if rest else None
