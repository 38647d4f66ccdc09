"""Batch norms that see the batches of all processes of a training (SyncBN; Peng et al., "MegDet", CVPR 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from detsearch.errors import ResourceError
from detsearch.nn.ops.counts import together
from detsearch.nn.ops.dense import precise


def share_statistics(network: nn.Module) -> None:
    """Let batch norms see the batches of all processes, of a network that is on its device; in a single process they
    see all there is, and stay as they are. Names of parameters and buffers do not change.

    ResourceError on a CPU for norms that are more than norms (timm's with an activation).
    """
    if not together():
        return
    if next(network.parameters()).device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        # PyTorch's own would lose the activations of timm's norms.
        convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for name, module in list(network.named_modules()):
        if type(module) is nn.BatchNorm2d:
            network.set_submodule(name, SharedBatchNorm2d.of(module))
        elif isinstance(module, _BatchNorm):
            found = f"a CPU, and a backbone with norms of type {type(module).__name__}"
            raise ResourceError("training.sync_bn", "GPUs", found, "leave it out, or use a coded backbone")


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over all processes on CPUs, where PyTorch's SyncBatchNorm does not run."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SharedBatchNorm2d:
        """The same norm, with the same parameters and buffers."""
        shared = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        shared.weight, shared.bias = norm.weight, norm.bias
        shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
        shared.num_batches_tracked = norm.num_batches_tracked
        return shared.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        values = precise(input)
        count = _total(values.new_tensor(values.numel() // values.shape[1]))
        mean = _total(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _total(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum, seen = self.momentum, self.num_batches_tracked
            average, spread = self.running_mean, self.running_var
            assert momentum is not None, "a detector's norms have one"
            assert seen is not None
            assert average is not None
            assert spread is not None
            seen.add_(1)
            average.lerp_(mean, momentum)
            spread.lerp_(variance * count / (count - 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def _total(values: Tensor) -> Tensor:
    """The sum over all processes; so is its gradient."""
    total: Tensor = _Total.apply(values)
    return total


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004  nothing is kept
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
