"""A detector and a loader that take no time, with the interfaces of the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detsearch.arch.code import parse_detector
from detsearch.nn.structures import ImageBatch, Targets
from detsearch.search.trial import TrialContext
from detsearch.training.loop import Trained, train
from detsearch.training.settings import TrainingSettings

SPEC = parse_detector("resnet18/fpn/retinanet@256x256")
CLASSES = ("a", "b")


class Toy(nn.Module):
    """Two losses over a few weights; `norm` and `dropout` make it depend on the batch and on random numbers."""

    def __init__(self, *, norm: bool = False, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3, dtype=dtype)
            self.norm = nn.BatchNorm2d(4, dtype=dtype) if norm else nn.Identity()
            self.dropout = nn.Dropout(dropout)
            self.head = nn.Linear(4, 5, dtype=dtype)
        self.dtype = dtype
        self.calls: list[int] = []  # images per call

    def forward(self, images: ImageBatch, targets: Targets) -> dict[str, Tensor]:
        self.calls.append(len(images))
        found = self.head(self.dropout(self.norm(self.conv(images.pixels.to(self.dtype) / 255)).relu()).mean((2, 3)))
        wanted = (targets.boxes.to(self.dtype) * targets.valid[..., None]).sum(1) / 64
        return {
            "boxes": ((found[:, :4] - wanted) ** 2).sum(1).mean(),
            "classes": ((found[:, 4] - targets.valid.sum(1)) ** 2).mean(),
        }


class Loader:
    """`images` random images in batches of `batch`, in an order that depends on the epoch; what does not fill the last
    batch is left out, unless it is the only one.

    Unlike the real one it takes a number from torch's generator whenever it is iterated over.
    """

    def __init__(self, images: int = 13, batch: int = 4, *, boxes: bool = True) -> None:
        generator = torch.Generator().manual_seed(1)
        self.pixels = torch.randint(0, 256, (images, 3, 8, 8), dtype=torch.uint8, generator=generator)
        self.corners = torch.rand(images, 3, 4, generator=generator) * 64
        self.counts = torch.randint(0, 4, (images,), generator=generator) if boxes else torch.zeros(images).long()
        self.batch, self.epoch, self.start = min(batch, max(1, images)), 0, 0
        self.asked: list[tuple[int, int]] = []  # epoch and first batch

    def __len__(self) -> int:
        return len(self.pixels) // self.batch

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        self.epoch, self.start = epoch, start_batch
        self.asked.append((epoch, start_batch))

    def __iter__(self) -> Iterator[tuple[ImageBatch, Targets]]:
        torch.rand(1)
        order = torch.randperm(len(self.pixels), generator=torch.Generator().manual_seed(self.epoch))
        for chosen in order.split(self.batch)[self.start : len(self)]:
            boxes = [self.corners[i, : self.counts[i]] for i in chosen]
            labels = [torch.zeros(len(box), dtype=torch.int64) for box in boxes]
            sizes = torch.full((len(chosen), 2), 8)
            yield ImageBatch(self.pixels[chosen], sizes), Targets.from_lists(boxes, labels)


def settings(**changes: Any) -> TrainingSettings:
    usual = {"epochs": 3, "batch": 4, "lr": 0.2, "warmup_steps": 2}
    return TrainingSettings(**{**usual, **changes})


def stop_after(steps: int) -> Any:
    """A should_stop that becomes true when it was asked `steps` times."""
    asked = iter(range(1, 10**6))
    return lambda: next(asked) >= steps


def run(
    folder: Path, detector: nn.Module, loader: Loader, chosen: TrainingSettings, *, seed: int = 7, **more: Any
) -> Trained:
    """`train` on a CPU; `should_stop`, `report` and `start` go into the context."""
    context = {name: more.pop(name) for name in ("should_stop", "report", "start") if name in more}
    return train(
        detector,  # type: ignore[arg-type]
        loader,
        chosen,
        spec=more.pop("spec", SPEC),
        classes=more.pop("classes", CLASSES),
        seed=seed,
        context=TrialContext(folder=folder, **context),
        **more,
    )


def weights(detector: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in detector.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
