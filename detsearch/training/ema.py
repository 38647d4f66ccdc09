"""An exponential moving average of the weights, often a little better than the last ones."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


class EMA(Generic[Net]):
    """`module` is a copy of a network in eval mode whose parameters follow it:

        average <- d * average + (1 - d) * parameter,    d = min(decay, (1 + n) / (10 + n))

    at the n-th update, n = 0, 1, ...: the decay grows, so that a training shorter than 1 / (1 - decay) steps is not an
    average of random weights. Buffers (statistics of normalisation) are copied.
    """

    def __init__(self, network: Net, decay: float) -> None:
        self.module: Net = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: Net) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, parameter in zip(self.module.parameters(), network.parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)
        for copied, buffer in zip(self.module.buffers(), network.buffers(), strict=True):
            copied.copy_(buffer)
        self.updates += 1
