"""Studies whose figures are made up: nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detsearch.arch.code import parse_detector
from detsearch.files import write_json
from detsearch.runs.folders import RECIPE
from detsearch.runs.recipe import write_recipe
from detsearch.runs.search import DATA_SUMMARY
from detsearch.runs.settings import SearchRecipe
from detsearch.search.ledger import Ledger
from detsearch.search.objective import Objective
from detsearch.search.trial import Proposal, TrialState
from detsearch.types import CostMetrics, Fidelity, Latency, LatencyProtocol, Metrics


def write_study(
    folder: Path, recipe: SearchRecipe, rows: Sequence[tuple[str, float, float]], macs: Sequence[int] = ()
) -> Path:
    """A study of complete trials in `folder`: (code, AP, latency) each, and MACs, 1 where they are not given."""
    objectives = tuple(Objective.parse(text) for text in recipe.objectives)
    fidelity = Fidelity(recipe.training.epochs)
    with Ledger(folder, {"kind": "structure", "device": "cpu", "device_name": "a CPU"}, objectives) as ledger:
        for number, (code, ap, ms) in enumerate(rows):
            trial = ledger.add(Proposal(spec=parse_detector(code), origin="random"), fidelity=fidelity, seed=0)
            cost = CostMetrics(params=1, macs=macs[number] if macs else 1, memory_access=1, latency=latency(ms))
            ledger.record_cost(trial.number, cost)
            ledger.start(trial.number)
            ledger.finish(trial.number, TrialState.COMPLETE, metrics=Metrics(values={"ap": ap}, fidelity=fidelity))
    write_recipe(recipe, folder / RECIPE)
    splits = {name for name in (recipe.data.train, recipe.data.val, recipe.data.test) if name is not None}
    write_json(folder / DATA_SUMMARY, {name: {"images": 4, "boxes": 9, "classes": ["a", "b"]} for name in splits})
    return folder


def latency(ms: float) -> Latency:
    protocol = LatencyProtocol(
        device="cpu",
        device_name="a CPU",
        runtime="eager",
        precision="float32",
        threads=1,
        batch=1,
        input="64x64",
        warmup=1,
        runs=3,
        includes="",
        excludes="",
    )
    return Latency(median_ms=ms, iqr_ms=0.0, steady=True, protocol=protocol)
