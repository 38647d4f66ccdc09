"""The two callables through which a search sees the world, when candidates are really trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from detsearch.arch.spec import DetectorSpec
from detsearch.build import build
from detsearch.cost.count import count_cost
from detsearch.cost.latency import device_name, measure
from detsearch.runs.data import load_split
from detsearch.runs.fit import fit, score_with
from detsearch.runs.heritage import read_heritage
from detsearch.runs.revision import versions
from detsearch.runs.settings import SearchRecipe
from detsearch.runtime.eager import EagerRuntime
from detsearch.search.inheritance import INHERITED
from detsearch.search.objective import Limit
from detsearch.search.trial import TrialContext
from detsearch.types import CostMetrics, Fidelity, Metrics


@dataclass(frozen=True)
class TrainedCandidates:
    """Costs candidates on `device` and scores them by training, as `recipe` says. Can be sent to other processes.

    `masks`: whether any candidate draws masks; all are trained and scored on the same objects, those that have one.
    `threads` and `versions` are those of the process that makes this: latency is measured with so many where the recipe
    does not say, for the processes of trials have fewer, and they run that code.
    """

    recipe: SearchRecipe
    num_classes: int
    device: str
    masks: bool = False
    threads: int = field(default_factory=torch.get_num_threads)
    versions: Mapping[str, str] = field(default_factory=versions)

    def cost(self, spec: DetectorSpec) -> CostMetrics:
        """Exact cost, and latency measured on the untrained network: post-processing has a fixed load, so that the
        weights do not matter. Latency is not measured where a limit on what was counted is broken."""
        detector = build(spec.network, self.num_classes)
        counted = count_cost(detector, spec.input)
        if self._is_out(counted):
            return counted
        how = self.recipe.latency
        runtime = EagerRuntime(detector, self.device)
        threads = how.threads or self.threads
        latency = measure(runtime, spec.input, warmup=how.warmup, runs=how.runs, seconds=how.seconds, threads=threads)
        return replace(counted, latency=latency)

    def counted(self, spec: DetectorSpec) -> CostMetrics:
        """The same without latency, for which nothing has to run: a moment where a measurement takes seconds."""
        return count_cost(build(spec.network, self.num_classes), spec.input)

    def _is_out(self, counted: CostMetrics) -> bool:
        limits, costs = map(Limit.parse, self.recipe.limits), counted.values()
        return any(limit.name in costs and limit.broken_by(costs) is not None for limit in limits)

    def evaluate(self, spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
        """AP on the validation split after ``fidelity.epochs`` of the recipe's epochs."""
        run = self.recipe
        names = run.data.train, run.data.val
        train_set, val_set = (load_split(run.data.file, name, self.masks) for name in names)
        trained = fit(
            spec, run, train_set=train_set, val_set=val_set, seed=seed, context=context, until=fidelity.epochs
        )
        heritage = None if context.inherits is None else read_heritage(context.folder)
        accuracy = score_with(run, trained.model, spec.input, val_set, context.device)
        return Metrics(
            values={**accuracy.values(), "train_seconds": trained.seconds},
            fidelity=fidelity,
            provenance={
                "split": val_set.split,
                "seed": seed,
                "steps": trained.steps,
                "batch": trained.batch,
                "device": context.device,
                "device_name": device_name(context.device),
                "threads": context.threads,
                **self.versions,
                **({} if heritage is None else {INHERITED: heritage.model_dump(mode="json")}),
            },
        )
