"""The strategies' promise of equal proposals anywhere, on the space that users search: the paper's, whole."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib

from detsearch.arch.code import format_detector
from detsearch.arch.spaces.structural import StructuralSpace
from detsearch.arch.spec import DetectorSpec
from detsearch.search.evolution import Evolution
from detsearch.search.objective import Objective
from detsearch.search.trial import Trial, TrialState, proposal_rng
from detsearch.types import CostMetrics, Fidelity, Metrics

OBJECTIVES = (Objective("ap", True), Objective("macs", False))
INITIAL, COUNT = 12, 32


def evolved(seed: int = 3) -> list[tuple[str, str, tuple[int, ...]]]:
    """Code, origin and parents of `COUNT` proposals; figures are drawn from the codes."""
    strategy = Evolution(space=StructuralSpace.from_choices({}), objectives=OBJECTIVES, initial=INITIAL)
    trials: list[Trial] = []
    for number in range(COUNT):
        proposal = strategy.propose(trials, [], proposal_rng(seed, number))
        assert proposal is not None
        trials.append(_trained(number, proposal.spec, proposal.origin, proposal.parents))
    return [(trial.code, trial.origin, trial.parents) for trial in trials]


def _trained(number: int, spec: DetectorSpec, origin: str, parents: tuple[int, ...]) -> Trial:
    code = format_detector(spec)
    fate = zlib.crc32(code.encode())
    return Trial(
        number=number,
        code=code,
        spec=spec,
        state=TrialState.COMPLETE,
        fidelity=Fidelity(1),
        seed=0,
        origin=origin,
        parents=parents,
        cost=CostMetrics(params=1, macs=fate % 1000, memory_access=1),
        metrics=Metrics(values={"ap": fate // 1000 % 1000 / 1000}, fidelity=Fidelity(1)),
    )


def test_processes_with_other_hashes_propose_the_same() -> None:
    script = "from tests.search.test_structural_proposals import evolved; print(evolved())"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": salt},
        )
        for salt in ("1", "2")
    ]
    here = evolved()
    assert [process.communicate(timeout=120)[0].strip() for process in running] == [str(here)] * 2
    assert [origin for _, origin, _ in here[:INITIAL]] == ["random"] * INITIAL
    assert sum(origin == "mutation" for _, origin, _ in here) > (COUNT - INITIAL) / 2
    assert len({code for code, _, _ in here}) == COUNT
