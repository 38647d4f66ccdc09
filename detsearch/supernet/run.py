"""A search of cells under way: what one iteration does, and what must be saved to go on after the last one."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from detsearch.cost.device_lock import shared
from detsearch.errors import CheckpointError, SpecError, TrainingError
from detsearch.nn.freezing import freeze
from detsearch.nn.structures import ImageBatch, Targets
from detsearch.supernet.bilevel import Bilevel, alpha_optimiser
from detsearch.supernet.derive import Choice, settled
from detsearch.supernet.detector import Supernet
from detsearch.supernet.expected_cost import ExpectedCost, shares
from detsearch.supernet.settings import CellSearchSettings
from detsearch.training.archive import read_archive, write_archive
from detsearch.training.checkpoint import load_weights
from detsearch.training.optimiser import make_optimiser
from detsearch.training.seeding import seed_all

FORMAT: Final = "detsearch cell search"
VERSION: Final = 2

Pair = tuple[ImageBatch, Targets]


class CellSearchRun:
    """A supernet with its two optimisers after `iteration` iterations, and what has been derived on the way.

    `identity`: plain values that say which search this is, without the settings; a state is gone on with by the same
    only. `measure` says by group what operations and 'none' cost, (K + 1,) in any unit; it is asked once, when a search
    begins whose settings give that a weight, and `costs` has its answer by group and operation. `seconds` is the wall
    time spent, `peak_bytes` the most memory (`memory_peak`), `rates` the learning rates from which iteration on.
    """

    def __init__(
        self,
        supernet: Supernet,
        settings: CellSearchSettings,
        *,
        identity: Mapping[str, Any],
        seed: int,
        device: str,
        measure: Callable[[], Mapping[str, Tensor]],
    ) -> None:
        self.settings, self.seed, self.device = settings, seed, torch.device(device)
        self.identity = {**identity, "seed": seed, "settings": settings.deciding()}
        self.supernet, self.architecture = supernet, supernet.architecture
        self.detector = supernet.detector
        freeze(self.detector, stages=settings.frozen_stages, norms=settings.frozen_bn)
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.detector.to(self.device).to(memory_format=layout)
        self.detector.train()
        alphas = {id(parameter) for parameter in self.architecture.parameters()}
        self.weights = make_optimiser((p for p in self.detector.parameters() if id(p) not in alphas), settings)
        self.alpha = alpha_optimiser(self.architecture, lr=settings.alpha_lr, weight_decay=settings.alpha_decay)
        self.schedule = settings.schedule(settings.iterations)
        self.bilevel = Bilevel(
            self.detector,
            self.architecture,
            self.weights,
            self.alpha,
            order=settings.gradient,
            clip_norm=math.inf if settings.clip_norm is None else settings.clip_norm,
            dtype=settings.autocast_dtype(self.device),
        )
        self.history: list[Choice] = []
        self.rates: list[dict[str, float]] = [{"iteration": 0, **settings.rates}]
        self.costs: dict[str, dict[str, float]] = {}
        self.seconds, self.peak_bytes = 0.0, 0
        self._measure = measure
        self._clock = time.monotonic()

    @property
    def iteration(self) -> int:
        return self.bilevel.iteration

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.iteration >= self.settings.iterations or (self.settings.stop and settled(self.history))

    def begin(self) -> None:
        """Find out what operations cost, where that counts."""
        if self.settings.cost_weight:
            costs = self._measure()
            self._price(
                {
                    group: dict(zip(tokens, costs[group].tolist(), strict=False))
                    for group, tokens in self.architecture.choices.items()
                }
            )

    def iterate(self, architecture: Pair, weights: Pair) -> dict[str, dict[str, float]]:
        """One step of each on its own batch. The losses of both by name; TrainingError where one is not finite, and
        nothing of its step has happened."""
        ours, theirs = self._placed(architecture), self._placed(weights)
        with shared(str(self.device)):
            # Before both steps: that of alpha may look ahead to that of the weights.
            for group in self.weights.param_groups:
                group["lr"] = self.settings.scaled_lr * self.schedule.factor(self.iteration)
            seed_all(self.seed, self.iteration, 0)
            found = {"architecture": self.bilevel.architecture_step(ours, theirs)}
            seed_all(self.seed, self.iteration, 1)
            found["weights"] = self.bilevel.weights_step(theirs)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now
        self.peak_bytes = max(self.peak_bytes, memory_peak(self.device))
        return found

    def look(self) -> Choice:
        """What would be derived now, also added to the history; TrainingError where alpha is not finite."""
        choice = Choice.of(self.architecture, self.iteration)
        self.history.append(choice)
        return choice

    def resume_clock(self) -> None:
        """The time until now was spent on something else; so was the memory of a GPU."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._clock = time.monotonic()

    def save(self, path: Path) -> None:
        """Write the state; ResourceError if that fails, TrainingError if a weight is no longer finite (its losses would
        be so in the next step only), and what was there before is still there."""
        if broken := next(
            (name for name, value in self.detector.state_dict().items() if not value.isfinite().all()), None
        ):
            raise TrainingError(f"iteration {self.iteration}: {broken} is not finite; lower lr and repeat the command")
        content = {
            "identity": self.identity,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "rates": self.rates,
            "costs": self.costs,
            "history": [choice.record() for choice in self.history],
            "weights": self.detector.state_dict(),
            "optimisers": {"weights": self.weights.state_dict(), "alpha": self.alpha.state_dict()},
        }
        write_archive(path, FORMAT, VERSION, content)

    def restore(self, path: Path) -> None:
        """Go on where the state of the same search stands, with the learning rates of the settings; CheckpointError,
        naming what differs, otherwise."""
        content = read_archive(path, FORMAT, VERSION)
        identity = content.get("identity")
        if not isinstance(identity, dict):
            raise CheckpointError(str(path), "what search the state is of", type(identity).__name__)
        for name, mine in _flat(self.identity).items():
            theirs = _flat(identity).get(name)
            if mine != theirs:
                hint = "choose another folder, or remove this one"
                raise CheckpointError(
                    str(path), f"{name} {mine} as in the search that is to go on here", str(theirs), hint
                )
        try:
            iteration, seconds = int(content["iteration"]), float(content["seconds"])
            history = [Choice.read(record) for record in content["history"]]
            if not 0 <= iteration <= self.settings.iterations:
                raise ValueError(f"iteration {iteration}")
            peak = int(content["peak_bytes"])
            rates = [
                {"iteration": int(rate["iteration"]), **{name: float(rate[name]) for name in self.settings.rates}}
                for rate in content["rates"]
            ]
            unchanged = self.settings.rates.items() <= rates[-1].items()
            costs = {
                group: {token: float(content["costs"][group][token]) for token in tokens}
                for group, tokens in self.architecture.choices.items()
                if self.settings.cost_weight
            }
            load_weights(self.detector, content["weights"], path)
            self.weights.load_state_dict(content["optimisers"]["weights"])
            self.alpha.load_state_dict(content["optimisers"]["alpha"])
        except (LookupError, ValueError, TypeError, AttributeError, SpecError) as error:
            found = f"{type(error).__name__} in it"
            raise CheckpointError(str(path), "the complete state of a search", found) from error
        for group in self.alpha.param_groups:
            group["lr"] = self.settings.alpha_lr
        self.bilevel.iteration, self.seconds, self.history = iteration, seconds, history
        self.peak_bytes, self.rates = peak, rates
        if not (unchanged or self.ended):
            self.rates.append({"iteration": iteration, **self.settings.rates})
        if costs:
            self._price(costs)

    def _price(self, costs: dict[str, dict[str, float]]) -> None:
        """Let `costs` count in the architecture's loss."""
        self.costs = costs
        columns = {group: torch.tensor([*mine.values(), 0.0]) for group, mine in costs.items()}
        term = ExpectedCost(shares(columns, self.architecture), self.settings.cost_weight)
        self.bilevel.term = term.to(self.device)

    def _placed(self, batch: Pair) -> Pair:
        images, targets = batch[0].to(self.device, non_blocking=True), batch[1].to(self.device, non_blocking=True)
        if self.settings.channels_last:
            images = ImageBatch(images.pixels.contiguous(memory_format=torch.channels_last), images.sizes)
        return images, targets


def memory_peak(device: torch.device) -> int:
    """The most bytes that tensors took on a GPU since its statistics were reset; on a CPU, the most that this process
    ever had in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """With the settings one by one, so that a difference has a name; as JSON would hold them."""
    settings = identity.get("settings")
    own = {name: value for name, value in identity.items() if name != "settings"}
    return own | {f"cells.{name}": value for name, value in (settings if isinstance(settings, dict) else {}).items()}
