"""A training under way: what one optimiser step does, and what must be saved to go on after the last one."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor

from detsearch.arch.code import format_subject
from detsearch.arch.spec import ClassifierSpec, DetectorSpec
from detsearch.errors import CheckpointError, TrainingError
from detsearch.nn.freezing import Freezable, freeze
from detsearch.nn.structures import ImageBatch, Targets
from detsearch.nn.sync_norms import share_statistics
from detsearch.training.checkpoint import (
    Checkpoint,
    CheckpointMeta,
    expect,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)
from detsearch.training.ema import EMA
from detsearch.training.optimiser import make_optimiser
from detsearch.training.ranks import Ranks, unsynchronised
from detsearch.training.seeding import seed_all
from detsearch.training.settings import TrainingSettings

Net = TypeVar("Net", bound=Freezable)
Batch: TypeAlias = tuple[ImageBatch, Targets | Tensor]
"""What a network is called with to give its losses: a detector with targets, a classifier with labels (B,) int64."""


class TrainingRun(Generic[Net]):
    """A network with its optimiser, schedule and average after `step` optimiser steps and `epoch` finished epochs.

    Called with a `Batch` it gives scalar losses by name. `batches` is the number of batches that the loader delivers in
    an epoch. `seconds` is the wall time spent. `ranks` are the processes that train together; None: this one alone.
    """

    def __init__(
        self,
        model: Net,
        settings: TrainingSettings,
        *,
        spec: DetectorSpec | ClassifierSpec,
        classes: Sequence[str],
        seed: int,
        device: str,
        batches: int,
        ranks: Ranks | None = None,
    ) -> None:
        self.settings, self.seed, self.device = settings, seed, torch.device(device)
        self.network, self.input, self.classes = format_subject(spec), str(spec.input), tuple(classes)
        # As the loader leaves out what does not fill a batch: the images of an epoch do not depend on the split.
        self.steps_per_epoch = max(1, batches // settings.accumulate)
        self.schedule = settings.schedule(settings.epochs * self.steps_per_epoch)
        self.model, self.ranks = model, ranks or Ranks((device,))
        self._place()
        if settings.sync_bn:
            share_statistics(model)
        freeze(model, stages=settings.frozen_stages, norms=settings.frozen_bn)
        self.optimiser = make_optimiser(model.parameters(), settings)
        self.ema = None if settings.ema_decay is None else EMA(model, settings.ema_decay)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self._sums: Counter[str] = Counter()  # over the epoch: losses by name, "grad_norm", "images", "seconds"
        self._dtype = settings.autocast_dtype(self.device)
        self._parallel = self.ranks.parallel(model)

    @property
    def step_in_epoch(self) -> int:
        return self.step - self.epoch * self.steps_per_epoch

    @property
    def answering(self) -> Net:
        """The network to answer with: the average, where one is kept."""
        return self.model if self.ema is None else self.ema.module

    def begin_epoch(self) -> None:
        """Make ready to train, whatever an evaluation did to the network."""
        self._place()
        self.model.train()
        self._clock = time.monotonic()

    def optimise(self, parts: Sequence[Batch]) -> None:
        """One optimiser step on a batch that comes in parts.

        Losses are means over images, so a part weighs as much as it has images, and the split does not show.
        Raises TrainingError, no weight updated, if a loss or the gradient is not finite.
        """
        with self.ranks.step():
            seed_all(self.seed, self.step, *([] if self.ranks.first else [self.ranks.number]))
            losses = self._gradient(parts)
            limit = math.inf if self.settings.clip_norm is None else self.settings.clip_norm
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
            # Reading these waits for the device. That costs nothing extra: the lock is worth something only if the
            # device has finished when it is given back.
            found = self.ranks.mean(torch.stack([*losses.values(), norm]))
            values = dict(zip([*losses, "grad_norm"], found.tolist(), strict=True))
            self._require_finite(values)
            for group in self.optimiser.param_groups:
                group["lr"] = self.settings.scaled_lr * self.schedule.factor(self.step)
            self.optimiser.step()
            # The fused step does not tell autograd that it wrote, on which whoever keeps a function of weights relies.
            torch.autograd.graph.increment_version(list(self.model.parameters()))
            self.optimiser.zero_grad(set_to_none=True)
            if self.ema is not None:
                self.ema.update(self.model)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        self.step += 1
        self._count(values, images=len(self.ranks) * sum(len(images) for images, _ in parts))

    def record(self) -> dict[str, Any]:
        """The epoch so far, for the log: means over its images and steps, the last learning rate."""
        steps = max(1, self.step_in_epoch)
        losses = {name: total / steps for name, total in self._sums.items() if name not in _OTHER_SUMS}
        return {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": self.settings.scaled_lr * self.schedule.factor(max(0, self.step - 1)),
            "loss": sum(losses.values()),
            "losses": losses,
            "grad_norm": self._sums["grad_norm"] / steps,
            "images": self._sums["images"],
            "seconds": round(self._sums["seconds"], 3),
        }

    def end_epoch(self) -> dict[str, Any]:
        """Count the epoch as finished and return its record."""
        record = self.record()
        self.epoch += 1
        self._sums.clear()
        return record

    def save(self, path: Path) -> None:
        """Write a checkpoint; when all epochs are finished, without what is only needed to go on. Of several processes
        the first one does."""
        if not self.ranks.first:
            return
        meta = CheckpointMeta(
            network=self.network,
            input=self.input,
            classes=self.classes,
            settings=self.settings.deciding(),
            seed=self.seed,
            epoch=self.epoch,
            step=self.step,
            seconds=self.seconds,
        )
        state = None
        if self.epoch < self.settings.epochs:
            state = {
                "weights": None if self.ema is None else self.model.state_dict(),
                "updates": 0 if self.ema is None else self.ema.updates,
                "optimiser": self.optimiser.state_dict(),
                "steps_per_epoch": self.steps_per_epoch,
                "sums": dict(self._sums),
            }
        save_checkpoint(path, Checkpoint(meta, self.answering.state_dict(), state))

    def restore(self, path: Path) -> None:
        """Go on where a checkpoint of the same training stands; CheckpointError, naming what differs, otherwise."""
        checkpoint = read_checkpoint(path)
        meta, state = checkpoint.meta, checkpoint.state
        expect(checkpoint, path, network=self.network, classes=self.classes)
        mine, theirs = self._identity(), {**meta.settings, "seed": meta.seed, "input": meta.input}
        for name in mine.keys() | theirs.keys():
            if mine.get(name) != theirs.get(name):
                text = f"{name} {mine.get(name)} as in the training that is to go on here"
                raise CheckpointError(
                    str(path), text, str(theirs.get(name)), "choose another folder, or remove this one"
                )
        load_weights(self.answering, checkpoint.weights, path)
        self.epoch, self.step, self.seconds = meta.epoch, meta.step, meta.seconds
        if state is None and self.epoch == self.settings.epochs:
            return
        if state is None or not 0 <= self.step_in_epoch <= self.steps_per_epoch:
            raise CheckpointError(str(path), "the state of a training", f"none that fits step {self.step}")
        if state.get("steps_per_epoch") != self.steps_per_epoch:
            received = str(state.get("steps_per_epoch"))
            raise CheckpointError(str(path), f"{self.steps_per_epoch} steps an epoch, as this dataset has", received)
        try:
            if self.ema is not None:
                load_weights(self.model, state["weights"], path)
                self.ema.updates = state["updates"]
            self.optimiser.load_state_dict(state["optimiser"])
            self._sums = Counter(state["sums"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                str(path), "the complete state of a training", f"{type(error).__name__} in it"
            ) from error

    def _identity(self) -> dict[str, Any]:
        return {**self.settings.deciding(), "seed": self.seed, "input": self.input}

    def _place(self) -> None:
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        self.model.to(self.device).to(memory_format=layout)

    def _gradient(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Add the gradient of the batch's mean loss to the parameters; this process's losses, detached, on the
        device."""
        total = sum(len(images) for images, _ in parts)
        sums: dict[str, Tensor] = {}
        for number, (images, targets) in enumerate(parts, start=1):
            images, targets = images.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
            if self.settings.channels_last:
                images = ImageBatch(images.pixels.contiguous(memory_format=torch.channels_last), images.sizes)
            share = len(images) / total
            with unsynchronised(self._parallel, when=number < len(parts)):
                with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype is not None):
                    losses = self._parallel(images, targets)
                loss = torch.stack([value * share for value in losses.values()]).sum()
                loss.backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() * share
        return sums

    def _require_finite(self, values: dict[str, float]) -> None:
        broken = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if broken:
            losses = [text for text in broken if not text.startswith("grad_norm")]
            what = f"loss {', '.join(losses)}" if losses else f"the gradient's norm is {values['grad_norm']}"
            where = f"epoch {self.epoch + 1}, step {self.step + 1}"
            raise TrainingError(f"{where}: {what}; lower training.lr or training.clip_norm, or lengthen the warm-up")

    def _count(self, values: dict[str, float], *, images: int) -> None:
        now = time.monotonic()
        elapsed, self._clock = now - self._clock, now
        self.seconds += elapsed
        self._sums.update(values)
        self._sums.update({"images": images, "seconds": elapsed})


_OTHER_SUMS = frozenset({"grad_norm", "images", "seconds"})
