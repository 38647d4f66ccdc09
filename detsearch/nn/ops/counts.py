"""What sums over a batch are divided by, also where several processes have a share of the batch each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def together() -> bool:
    """Whether this process trains with others, each on a share of every batch (`training.ranks`)."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def of_batch(number: int | Tensor, device: torch.device) -> int | Tensor:
    """What a sum over the images at hand is divided by, to be one over `number` things counted in the whole batch, at
    least 1.

    Where processes share the batch, their losses' gradients are averaged, not added; so it is what all of them count,
    a process: the mean of the quotients is then what one process would have with all images. All of them must ask, in
    the same order.
    """
    if not together():
        return max(1, number) if isinstance(number, int) else number.clamp(min=1)
    whole = torch.tensor(number, device=device) if isinstance(number, int) else number.detach().clone()
    dist.all_reduce(whole)
    return whole.clamp(min=1) / dist.get_world_size()
