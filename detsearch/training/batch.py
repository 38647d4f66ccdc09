"""A batch that fits the device, found by trying."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import psutil
import torch
from torch import Tensor

from detsearch.cost.device_lock import shared
from detsearch.errors import ResourceError
from detsearch.nn.freezing import Freezable
from detsearch.nn.structures import ImageBatch, Targets
from detsearch.training.optimiser import make_optimiser
from detsearch.training.settings import TrainingSettings
from detsearch.types import InputSize

Draw: TypeAlias = Callable[[int, InputSize, torch.device], Targets | Tensor]
"""Makes up what so many images of a size are to be answered with."""

OBJECTS: Final = 16
"""In every image that is tried."""
SHARE: Final = {"cuda": 0.85, "cpu": 0.5}
"""Of the memory that there is for it, what a training may take. A CPU's is shared with loading images and with all else
that runs, and what a step takes is estimated there."""
COPIES: Final = 4
"""Of all weights: themselves, their gradient, the momentum and an average."""


def fitting_batch(
    model: Freezable,
    settings: TrainingSettings,
    size: InputSize,
    device: str,
    *,
    most: int,
    draw: Draw,
    beside: int = 1,
    sharing: int = 1,
) -> int:
    """The greatest power of two, at most `most`, of which one optimiser step of a copy of `model` fits the memory of
    `device`: on a GPU by doubling until it does not, on a CPU (where a process that takes too much is killed) by what
    steps of two and four images keep for the gradient. `size` is the tensor's, `draw` makes up targets; `beside` is how
    many processes of this training do the same at once, each with a GPU, or all with the memory that a CPU has.

    `sharing` trainings have the device, and come and go: each is given an equal share of all its memory, whichever
    begins first, and never more than what is free now, which is what a single one is given.
    Nothing about `model` or the generators changes. ResourceError if not even one image fits.
    """
    if most == 1:
        return 1
    trial = _Trial(model, settings, size, torch.device(device), draw, beside, sharing)
    with trial.prepared():
        fits = trial.fits_gpu if trial.device.type == "cuda" else trial.fits_cpu
        if not fits(2):
            # Not tried first: with one image a batch norm over a map of one pixel has nothing to normalise by.
            if not fits(1):
                raise ResourceError("training.batch", f"memory for one image of {size}", f"too little on {device}")
            return 1
        batch = 2
        while 2 * batch <= most and fits(2 * batch):
            batch *= 2
    return batch


def objects(num_classes: int, *, masks: bool) -> Draw:
    """Targets of a detector: `OBJECTS` boxes in every image, with masks if it draws any."""

    def draw(images: int, size: InputSize, device: torch.device) -> Targets:
        corners = torch.rand((images, OBJECTS, 2, 2), device=device).sort(dim=2).values
        boxes = (corners * torch.tensor([size.width, size.height], device=device)).flatten(2)
        whole = images * OBJECTS, size.height, size.width
        return Targets(
            boxes,
            torch.randint(0, num_classes, boxes.shape[:2], device=device),
            torch.ones(boxes.shape[:2], dtype=torch.bool, device=device),
            torch.ones(whole, dtype=torch.uint8, device=device) if masks else None,
        )

    return draw


def labels(num_classes: int) -> Draw:
    """Labels for a classifier."""
    return lambda images, _, device: torch.randint(0, num_classes, (images,), device=device)


def memory(group: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Bytes that this process may still take, and all that there are: of the machine, or of the control group that it
    is in."""
    machine = psutil.virtual_memory()
    free, total = int(machine.available), int(machine.total)
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        return min(free, limit - used), min(total, limit)
    except (OSError, ValueError):  # no such group, or one without a limit ("max")
        return free, total


class _Trial:
    def __init__(
        self,
        model: Freezable,
        settings: TrainingSettings,
        size: InputSize,
        device: torch.device,
        draw: Draw,
        beside: int,
        sharing: int,
    ) -> None:
        self.settings, self.size, self.device, self.draw = settings, size, device, draw
        self.model, self.beside, self.sharing = model, beside, sharing
        self._kept: dict[int, int] = {}

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Within, steps may be tried; afterwards all that they took is free again."""
        cuda = [self.device] if self.device.type == "cuda" else []
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        with torch.random.fork_rng(devices=cuda), shared(str(self.device)):
            torch.manual_seed(0)
            self.copy = copy.deepcopy(self.model).to(self.device).to(memory_format=layout).train()
            self.optimiser = make_optimiser(self.copy.parameters(), self.settings.with_batch(1))
            for group in self.optimiser.param_groups:
                group["lr"] = 0.0  # what is learned from noise must not end as no number
            free, total = torch.cuda.mem_get_info(self.device) if cuda else memory()
            self.free = min(free, total // self.sharing) // (1 if cuda else self.beside)
            if cuda:  # another that tries as well must not be in the way of this one, nor this one in its way
                torch.cuda.set_per_process_memory_fraction(1 / self.sharing, self.device)
            try:
                yield
            finally:
                del self.copy, self.optimiser
                if cuda:
                    torch.cuda.set_per_process_memory_fraction(1.0, self.device)
                    torch.cuda.empty_cache()

    def fits_gpu(self, batch: int) -> bool:
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            self._step(batch)
            taken = torch.cuda.max_memory_allocated(self.device) - before
        except torch.OutOfMemoryError:
            return False
        finally:
            self.optimiser.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        return taken <= SHARE["cuda"] * self.free

    def fits_cpu(self, batch: int) -> bool:
        """By what is kept of two and of four images, which grows with their number alike."""
        two, four = self._keeps(2), self._keeps(4)
        weights = COPIES * sum(p.numel() * p.element_size() for p in self.copy.parameters())
        taken = weights + two + (batch - 2) * max(0, four - two) / 2
        return taken <= SHARE["cpu"] * self.free

    def _keeps(self, batch: int) -> int:
        """Bytes that a forward pass keeps for the backward one."""
        if batch not in self._kept:
            kept: dict[int, int] = {}

            def pack(tensor: Tensor) -> Tensor:
                storage = tensor.untyped_storage()
                kept[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                losses = self._losses(batch)
            del losses
            self._kept[batch] = sum(kept.values())
        return self._kept[batch]

    def _step(self, batch: int) -> None:
        self._losses(batch).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def _losses(self, batch: int) -> Tensor:
        height, width = self.size.height, self.size.width
        pixels = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, device=self.device)
        if self.settings.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        images = ImageBatch(pixels, torch.tensor([[height, width]] * batch, device=self.device))
        targets = self.draw(batch, self.size, self.device)
        dtype = self.settings.autocast_dtype(self.device)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            losses = self.copy(images, targets)
        return torch.stack(list(losses.values())).sum()
