"""Every member of a space, for lists that were chosen by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detsearch.arch.spaces.base import Space
from detsearch.search.trial import Proposal, Trial, taken


@dataclass(frozen=True, kw_only=True)
class Exhaustive:
    """Every member once, in the order of the space; nothing is drawn."""

    space: Space

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:  # noqa: ARG002
        seen = taken((*history, *running))
        spec = next((spec for spec in self.space.all() if spec not in seen), None)
        return None if spec is None else Proposal(spec=spec, origin="listed")
