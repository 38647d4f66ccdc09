"""What the operations that a search leans to would cost, as a term of its loss (not in FAD's paper)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from detsearch.cost.device_lock import exclusive
from detsearch.nn.cells.operations import build_operation
from detsearch.nn.norms import Norms
from detsearch.supernet.cells import Architecture


class ExpectedCost(nn.Module):
    """`weight` times the expected cost of the edges under softmax(alpha). `costs` by group, (edges, K + 1) in any unit,
    the last column that of 'none'."""

    def __init__(self, costs: Mapping[str, Tensor], weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.groups = tuple(costs)
        for group, cost in costs.items():
            self.register_buffer(f"cost_{group}", cost)

    def forward(self, architecture: Architecture) -> Tensor:
        """A scalar."""
        weights = architecture.weights()
        terms = [(weights[group] * self.get_buffer(f"cost_{group}")).sum() for group in self.groups]
        return self.weight * torch.stack(terms).sum()


def macs(operations: Sequence[str], width: int) -> Tensor:
    """Multiply-accumulates of each operation at a place of a map of `width` channels, and of 'none': (K + 1,) float32.
    Times the places of all levels, those of the whole edge, but for the 1x1 convolutions around it, which all have."""
    with torch.device("meta"):
        built = [build_operation(token, width, Norms("gn", "gn")) for token in operations]
    # At stride 1 every weight of a convolution is used once at a place, and every convolution once.
    counts = [sum(m.weight.numel() for m in one.modules() if isinstance(m, nn.Conv2d)) for one in built]
    return torch.tensor([*counts, 0], dtype=torch.float32)


def latencies(
    operations: Sequence[str],
    width: int,
    maps: Sequence[Tensor],
    *,
    dtype: torch.dtype | None = None,
    layout: torch.memory_format = torch.contiguous_format,
    runs: int = 11,
    clock: Callable[[], float] = time.perf_counter,
) -> Tensor:
    """Milliseconds of each operation on all of `maps` (B, `width`, H, W), and of 'none', which takes none: (K + 1,)
    float32, medians of `runs`, each with all operations in turn, so that a device that is disturbed or grows warm
    treats them alike. `dtype`: of autocast, None for none; `layout`: of maps and weights in memory; `clock` gives
    seconds."""
    device = maps[0].device
    maps = [level.contiguous(memory_format=layout) for level in maps]
    made = (build_operation(token, width, Norms("gn", "gn")) for token in operations)
    built = [operation.to(device).to(memory_format=layout).eval() for operation in made]

    def passed(operation: nn.Module) -> float:
        began = clock()
        for level in maps:
            operation(level)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - began

    cast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
    with exclusive(str(device)), torch.inference_mode(), cast:  # weights are cast once, while warming up
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        for operation in built:
            passed(operation)
        times = torch.tensor([[passed(operation) for operation in built] for _ in range(runs)])
    return torch.cat([times.median(dim=0).values * 1e3, torch.zeros(1)])


def shares(costs: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Costs (K + 1,) of the operations by group as the (edges, K + 1) of `ExpectedCost`: shares of what the cells would
    cost with the dearest operation on every edge."""
    dearest = architecture.edges * sum(float(cost.max()) for cost in costs.values())
    return {group: (cost / dearest).expand(architecture.edges, -1).clone() for group, cost in costs.items()}
