"""Training on a handful of synthetic images until they are known by heart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from detsearch.data.datafile import load_datafile
from detsearch.data.loader import train_loader
from detsearch.data.transforms import Augmentation
from detsearch.nn.structures import ImageBatch, Targets
from detsearch.types import InputSize

CLASSES = 5
SIDE = 128


def few_images(folder: Path, count: int) -> tuple[ImageBatch, Targets]:
    """One batch of images of 128 x 128 pixels with objects of five classes and at least 16 pixels."""
    (folder / "data.yaml").write_text(
        f"format: synthetic\nwidth: {SIDE}\nheight: {SIDE}\nmin_side: 16\n"
        f"splits:\n  train: {{images: {count}, seed: 3}}\n"
    )
    data = load_datafile(folder / "data.yaml").split("train")
    assert len(data.classes) == CLASSES
    size = InputSize(SIDE, SIDE)
    loader = train_loader(data, size, batch=count, seed=0, augmentation=Augmentation.none(), workers=0, cache_mb=10)
    return next(iter(loader))


def descend(network: nn.Module, losses: Callable[[], dict[str, Tensor]], steps: int, lr: float = 0.002) -> None:
    """Adam with a short warm-up and a tenth of the rate for the last fifth."""
    optimiser = torch.optim.Adam(network.parameters(), lr)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 20) * (0.1 if step >= 0.8 * steps else 1)
        optimiser.zero_grad()
        torch.stack(list(losses().values())).sum().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5)
        optimiser.step()
