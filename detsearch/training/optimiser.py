"""The optimiser of a training: stochastic gradient descent over the parameters that learn."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from detsearch.training.settings import StepSettings


def make_optimiser(parameters: Iterable[nn.Parameter], settings: StepSettings) -> torch.optim.SGD:
    """SGD over those of the parameters that need a gradient; norms and biases (parameters of at most one axis) in a
    group of their own, without weight decay unless the settings ask for it."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    weights = [parameter for parameter in learning if parameter.ndim > 1]
    norms_and_biases = [parameter for parameter in learning if parameter.ndim <= 1]
    decay = settings.weight_decay
    groups = [
        {"params": weights, "weight_decay": decay},
        {"params": norms_and_biases, "weight_decay": decay if settings.decay_norm_bias else 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=settings.scaled_lr,
        momentum=settings.momentum,
        fused=True,
    )
