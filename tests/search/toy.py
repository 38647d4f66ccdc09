"""A product space with closed-form accuracy and cost, as real DetectorSpecs: nothing is trained. Imports little,
since the processes of trials import it too."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from detsearch.arch.spec import DetectorSpec, ModuleSpec, NetworkSpec
from detsearch.search.objective import Objective
from detsearch.search.trial import Trial, TrialContext, TrialInterrupted, TrialState
from detsearch.types import CostMetrics, Fidelity, InputSize, Metrics

OBJECTIVES = (Objective("ap", True), Objective("macs", False))
FIDELITY = Fidelity(3)
SIZE = InputSize(32, 32)


@dataclass(frozen=True)
class ToyBackbone(ModuleSpec):
    depths: tuple[int, ...] = (0, 0)


@dataclass(frozen=True)
class ToyHead(ModuleSpec):
    pass


def toy(*depths: int) -> DetectorSpec:
    return NetworkSpec(backbone=ToyBackbone(depths), head=ToyHead()).at(SIZE)


def depths(spec: DetectorSpec) -> tuple[int, ...]:
    assert isinstance(spec.network.backbone, ToyBackbone)
    return spec.network.backbone.depths


def leq(a: DetectorSpec, b: DetectorSpec) -> bool:
    return all(x <= y for x, y in zip(depths(a), depths(b), strict=True))


def code(spec: DetectorSpec) -> str:
    return "-".join(map(str, depths(spec)))


def parse(text: str) -> DetectorSpec:
    return toy(*map(int, text.split("-")))


@dataclass(frozen=True)
class ToySpace:
    """All tuples of `sides[i]` depths each; neighbours differ by one step in one place."""

    sides: tuple[int, ...] = (6, 6)

    def size(self) -> int:
        return int(np.prod(self.sides))

    def all(self) -> Iterator[DetectorSpec]:
        return (toy(*values) for values in itertools.product(*map(range, self.sides)))

    def contains(self, spec: DetectorSpec) -> bool:
        return all(0 <= value < side for value, side in zip(depths(spec), self.sides, strict=True))

    def sample(self, rng: np.random.Generator) -> DetectorSpec:
        return toy(*(int(rng.integers(side)) for side in self.sides))

    def neighbours(self, spec: DetectorSpec) -> Iterator[DetectorSpec]:
        values = depths(spec)
        for place, step in itertools.product(range(len(values)), (-1, 1)):
            moved = toy(*(v + step * (i == place) for i, v in enumerate(values)))
            if self.contains(moved):
                yield moved

    def mutate(self, spec: DetectorSpec, rng: np.random.Generator) -> DetectorSpec:
        around = list(self.neighbours(spec))
        return around[rng.integers(len(around))] if around else spec


def cost(spec: DetectorSpec) -> CostMetrics:
    first, *rest = depths(spec)
    return CostMetrics(params=1 + sum(depths(spec)), macs=10 + 3 * first + 2 * sum(rest), memory_access=7)


def accuracy(spec: DetectorSpec) -> float:
    first, *rest = depths(spec)
    return round(1 - 0.8 ** (first + 1) * 0.9 ** sum(rest), 6)


def metrics(spec: DetectorSpec, fidelity: Fidelity = FIDELITY) -> Metrics:
    return Metrics(values={"ap": accuracy(spec)}, fidelity=fidelity)


def evaluate(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    return metrics(spec, fidelity)


def evaluate_slowly(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    """50 ms an epoch, each saved in the folder; every epoch that is really worked on leaves a line in `epochs`."""
    state = context.folder / "state"
    done = int(state.read_text()) if state.exists() else 0
    while done < fidelity.epochs:
        if context.should_stop():
            raise TrialInterrupted(f"after {done}")
        time.sleep(0.05)
        with (context.folder / "epochs").open("a") as log:
            log.write(f"{done} {os.getpid()}\n")
        done += 1
        draft = context.folder / "draft"
        draft.write_text(str(done))
        draft.replace(state)
        context.report(done, fidelity.epochs, "")
    return metrics(spec, fidelity)


def evaluate_in_turn(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    """Leaves its epochs in its folder, and goes on only where a third as many were left."""
    before = 0 if context.start is None else int((context.start / "done").read_text())
    if before != (0 if fidelity.epochs == 1 else fidelity.epochs // 3):
        raise ValueError(f"{fidelity.epochs} epochs after {before}")
    (context.folder / "done").write_text(str(fidelity.epochs))
    return metrics(spec, fidelity)


def evaluate_badly(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    """Ends in the way that the first depth says."""
    match depths(spec)[0]:
        case 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 2:
            os._exit(7)
        case 3:
            raise ValueError("no\ngood")
        case 4:
            return Metrics(values={"ap": float("nan")}, fidelity=fidelity)
        case 5:
            print("said on stdout")
            print("said on stderr", file=sys.stderr)
    return metrics(spec, fidelity)


def trial(number: int, spec: DetectorSpec, state: TrialState = TrialState.COMPLETE, **changes: object) -> Trial:
    """A trial with the closed form's figures."""
    complete = state is TrialState.COMPLETE
    values: dict[str, object] = {
        "number": number,
        "code": code(spec),
        "spec": spec,
        "state": state,
        "fidelity": FIDELITY,
        "seed": 0,
        "origin": "random",
        "cost": cost(spec),
        "metrics": metrics(spec) if complete else None,
        **changes,
    }
    return Trial(**values)  # type: ignore[arg-type]
