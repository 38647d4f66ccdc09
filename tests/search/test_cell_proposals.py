"""Strategies on a space of cells, which is too large to list."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detsearch.arch.code import format_detector
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spec import DetectorSpec
from detsearch.search.evolution import Evolution
from detsearch.search.exhaustive import Exhaustive
from detsearch.search.objective import Objective
from detsearch.search.random_search import RandomSearch
from detsearch.search.surrogate import Surrogate
from detsearch.search.trial import Trial, TrialState
from detsearch.types import CostMetrics, Fidelity, Metrics

OBJECTIVES = (Objective("ap", True), Objective("macs", False))


def trained(number: int, spec: DetectorSpec) -> Trial:
    fidelity = Fidelity(1)
    return Trial(
        number=number,
        code=format_detector(spec),
        spec=spec,
        state=TrialState.COMPLETE,
        fidelity=fidelity,
        seed=0,
        origin="random",
        cost=CostMetrics(params=1, macs=10 + number, memory_access=1),
        metrics=Metrics(values={"ap": 0.1 * number}, fidelity=fidelity),
    )


@pytest.mark.parametrize("kind", [RandomSearch, Evolution, Surrogate, Exhaustive])
def test_strategies_propose_members_that_are_new(kind: Any) -> None:
    shared = {} if kind in (RandomSearch, Exhaustive) else {"objectives": OBJECTIVES, "initial": 2}
    space = read_space({"cells": {"detector": "fcos_r18_fpn@512x512"}})
    strategy, rng = kind(space=space, **shared), np.random.default_rng(0)
    history: list[Trial] = []
    origins = []
    for number in range(4):
        proposal = strategy.propose(history, (), rng)
        assert space.contains(proposal.spec)
        assert proposal.spec not in {one.spec for one in history}
        origins.append(proposal.origin)
        history.append(trained(number, proposal.spec))
    later = {RandomSearch: "random", Evolution: "mutation", Surrogate: "model", Exhaustive: "listed"}[kind]
    assert origins[2:] == [later, later]
