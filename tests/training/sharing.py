"""Trainings that several processes share, small enough for a test; what they call must be importable."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detsearch.arch.code import parse_detector
from detsearch.build import build
from detsearch.errors import RecipeError
from detsearch.nn.structures import ImageBatch, Targets
from detsearch.search.trial import TrialContext
from detsearch.training.ranks import Ranks, joined
from detsearch.training.run import TrainingRun
from detsearch.training.settings import TrainingSettings
from tests.nn.scenes import random_images, random_targets, with_masks

BODY: Final = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)"
MASK: Final = "mask(width=8,depth=1,score=maskiou(width=8,depth=1,hidden=8))"
NETWORKS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "mean over images": (f"{BODY}/retinanet(depth=1)/gn", {}),
    "counted in the batch": (f"{BODY}/fcos(depth=1)/gn_ws", {"accumulate": 2}),
    "two stages": (f"{BODY}/rpn(keep=20)/2fc(width=16)/gn", {"ema_decay": 0.9, "channels_last": False}),
    "with masks": (f"{BODY}/ga_rpn(keep=20)/cascade(stages=2,width=16,mask={MASK})/gn", {}),
    "batch norm": (f"{BODY}/retinanet(depth=1)/bn", {"sync_bn": True}),
}
"""Text and settings, by what the losses are divided by."""
BATCH: Final = 8
STEPS: Final = 3
COUNTS: Final = ([1, 0, 3, 2, 0, 5, 1, 2], [0, 0, 0, 0, 4, 1, 2, 3], [2] * 8)
"""Objects of each image; in the second batch the first process sees none."""
Weights = dict[str, NDArray[np.float64]]


def everything(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """A sampler without chance."""
    return positive, negative


def trained(kind: str, ranks: Ranks) -> Weights:
    """Weights and statistics after `STEPS` steps of SGD in float64."""
    text, changes = NETWORKS[kind]
    spec = parse_detector(f"{text}@64x64")
    torch.manual_seed(0)
    detector = build(spec.network, 2).double()
    for part in (detector.proposals, detector.head):
        if hasattr(part, "sampler"):
            part.sampler = everything
    settings = TrainingSettings(batch=BATCH, lr=0.05, base_batch=BATCH, warmup_steps=0, precision="float32", **changes)
    run = TrainingRun(
        detector, settings, spec=spec, classes=("a", "b"), seed=1, device="cpu", batches=STEPS, ranks=ranks
    )
    run.begin_epoch()
    for step, counts in enumerate(COUNTS):
        sizes = [(64, 64)] * BATCH
        images, targets = random_images(sizes, (64, 64), step), random_targets(counts, sizes, 2, step, torch.float64)
        targets = with_masks(targets, (64, 64), step)
        parts = [part_of(images, targets, number, settings.accumulate) for number in range(settings.accumulate)]
        run.optimise([part_of(*part, ranks.number, len(ranks)) for part in parts])
    state = run.answering.state_dict()
    for name, tensor in state.items():  # all processes have the same
        assert torch.equal(ranks.mean(tensor.double().clone()), tensor.double()), name
    # Not as tensors: those are shared with the process that sends them, which is about to end.
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def part_of(images: ImageBatch, targets: Targets, number: int, parts: int) -> tuple[ImageBatch, Targets]:
    """One of so many equal parts of a batch, with no more rows than it has objects."""
    chosen = slice(number * len(images) // parts, (number + 1) * len(images) // parts)
    counts = targets.valid.sum(dim=1)
    rows = slice(0, int(counts[chosen].max()))
    assert targets.masks is not None
    own = targets.masks[int(counts[: chosen.start].sum()) : int(counts[: chosen.stop].sum())]
    return (
        ImageBatch(images.pixels[chosen], images.sizes[chosen]),
        Targets(targets.boxes[chosen, rows], targets.labels[chosen, rows], targets.valid[chosen, rows], own),
    )


def train_all(ranks: Ranks, meeting: Path, context: TrialContext) -> dict[str, Weights]:
    """Every network of `NETWORKS`, one after the other."""
    with joined(ranks, meeting):
        return {kind: trained(kind, ranks) for kind in NETWORKS}


def told_to_share(ranks: Ranks, meeting: Path, context: TrialContext) -> int:
    return context.sharing


def die(how: str, ranks: Ranks, meeting: Path, context: TrialContext) -> None:
    """The second process ends in the middle of a training; the first one waits for it."""
    with joined(ranks, meeting):
        if ranks.number == 1 and how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if ranks.number == 1 and how == "refused":
            raise RecipeError("batch", "another one", "this one")
        if ranks.number == 1 and how == "broken":
            raise RuntimeError("a defect of ours")
        while not ranks.any(context.should_stop()):
            pass
