"""The processes that train one detector together on one machine, each on a share of every batch (data parallelism).

Every one has a device and a copy of the weights. Gradients are averaged while they are computed (PyTorch's
DistributedDataParallel), so that all make the same step; losses that divide by what they count in a batch ask for the
count of the whole batch (`nn.ops.counts`). What one process alone must do (checkpoints, logs, evaluation) the first one
does, and the others wait for it at the beginning of the next step.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from detsearch.cost.device_lock import shared

TIMEOUT: Final = timedelta(hours=2)
"""How long a process waits for another one that lives: the first one may evaluate meanwhile. One that dies is noticed
at once, by whoever started them."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Process `number` of those on `devices`, one for each; mostly the only one."""

    devices: tuple[str, ...]
    number: int = 0

    def __len__(self) -> int:
        return len(self.devices)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and evaluates."""
        return self.number == 0

    @property
    def share(self) -> tuple[int, int]:
        """Which part of how many of each batch this process has."""
        return self.number, len(self)

    def parallel(self, network: nn.Module) -> nn.Module:
        """A network that computes as the given one, on its weights, and averages gradients over all processes."""
        if len(self) == 1:
            return network
        # About 1 x 1 convolutions with channels last, whose strides may be written in two ways.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return DistributedDataParallel(network, gradient_as_bucket_view=True)

    @contextmanager
    def step(self) -> Iterator[None]:
        """The devices, for one optimiser step: beside other trainers, and while nothing is measured. The first process
        holds the locks of all: were each to take its own, a measurer could come between two that wait for each
        other."""
        with ExitStack() as held:
            if self.first:
                for device in sorted(set(self.devices)):
                    held.enter_context(shared(device))
            self._meet()
            yield
            self._meet()

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any of them."""
        return flag if len(self) == 1 else bool(self._reduced(torch.tensor(int(flag)), dist.ReduceOp.MAX))

    def least(self, number: int) -> int:
        """The smallest of their numbers."""
        return number if len(self) == 1 else int(self._reduced(torch.tensor(number), dist.ReduceOp.MIN))

    def mean(self, values: Tensor) -> Tensor:
        """The mean over them of values on their devices."""
        return values if len(self) == 1 else self._reduced(values, dist.ReduceOp.SUM) / len(self)

    def _meet(self) -> None:
        """Wait for all, on the CPU."""
        if len(self) > 1:
            self._reduced(torch.tensor(0), dist.ReduceOp.MAX)

    def _reduced(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        dist.all_reduce(values, operation)
        return values


@contextmanager
def joined(ranks: Ranks, meeting: Path) -> Iterator[None]:
    """While entered, the processes of `ranks` know of each other. `meeting` is where they meet: the path of a file that
    does not exist yet, in a folder that all of them see. Does nothing for one alone."""
    if len(ranks) == 1:
        yield
        return
    device = torch.device(ranks.devices[ranks.number])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are on one machine: nothing listens outside
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=dist.FileStore(str(meeting), len(ranks)),  # type: ignore[attr-defined]
        rank=ranks.number,
        world_size=len(ranks),
        timeout=TIMEOUT,
    )
    yield
    # Not after an error: the others would hear of the end before whoever started them hears of the reason.
    ranks.any(False)
    dist.destroy_process_group()


def unsynchronised(network: nn.Module, *, when: bool) -> AbstractContextManager[None]:
    """While entered, a network of `Ranks.parallel` only adds gradients up, if `when` says so."""
    if when and isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()
