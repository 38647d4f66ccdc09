"""What follows a convolution and how its weight is treated: one `Norms` value is handed to every module.

``bn``: batch normalisation. ``gn``: group normalisation (Wu and He, ECCV 2018) with gcd(32, C) groups, so that any
width has groups. ``gn_ws``: the same, with weight-standardised convolutions (Qiao et al., arXiv 1903.10520, 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.modules.fields import LayerNorm
from detsearch.arch.spec import Norm

WS_EPS: Final = 1e-5
GROUPS: Final = 32
BLOCK: Final = 16
"""Channels that oneDNN takes at once on processors with AVX-512; 8 with AVX2."""


class WSConv2d(nn.Conv2d):
    """Convolution whose filters are standardised before use: (w - mean) / sqrt(var + eps) over inputs and window.

    The output's scale does not depend on the weight's, so a norm must follow. A detector that answers standardises
    each weight once, not once an image.
    """

    _kept: tuple[object, Tensor, Tensor] | None = None

    def standardised(self) -> Tensor:
        # One filter per channel of a batch norm without statistics: the same formula as one differentiable kernel.
        flat = self.weight.reshape(1, self.out_channels, -1)
        return F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=WS_EPS).view_as(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self._conv_forward(input, self._filters(), self.bias)
        return output

    def train(self, mode: bool = True) -> Self:
        self._kept = None
        return super().train(mode)

    def _filters(self) -> Tensor:
        if torch.is_grad_enabled() or self.training or torch.compiler.is_compiling():
            self._kept = None
            return self.standardised()
        weight = self.weight
        # The counter tells writing in place (through ``.data`` it does not: call train() and eval() after that), the
        # rest that the parameter was exchanged, moved or laid out anew. The weight itself is kept too, so that no other
        # tensor can come to lie at its address.
        version = 0 if weight.is_inference() else weight._version
        state = (weight.data_ptr(), version, weight.dtype, weight.stride(), weight.device)
        if self._kept is None or self._kept[0] != state:
            self._kept = state, weight.detach(), self._laid_out(self.standardised())
        return self._kept[2]

    def _laid_out(self, filters: Tensor) -> Tensor:
        """In the memory format of the weight, so that the convolution need not convert it again and again."""
        last = self.weight.is_contiguous(memory_format=torch.channels_last) and not self.weight.is_contiguous()
        return filters.contiguous(memory_format=torch.channels_last) if last else filters


class PickedConv2d(nn.Conv2d):
    """A strided 1x1 convolution of few channels: picks the values that it reads, then convolves at stride 1.

    The same figures as `nn.Conv2d`, whose gradient of the weight writes past its workspace on a CPU, channels last,
    where inputs are fewer than `BLOCK` (oneDNN, issue 6035, seen with torch 2.15): a crash now and then.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(input[..., ::rows, ::columns], weight, bias, groups=self.groups)


class WSPickedConv2d(PickedConv2d, WSConv2d):
    """The same with standardised filters."""


class GroupNorm(nn.GroupNorm):
    """Group normalisation with gcd(32, C) groups that also takes a single value per group (a 1 x 1 map of one image),
    which the base class refuses; its answer there is the shift."""

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(GROUPS, channels), channels)

    def forward(self, input: Tensor) -> Tensor:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class Norms:
    """Makes norms and the convolutions that stand before them. `plain_kind` is the norm of `plain` convolutions; None:
    they have none."""

    kind: Norm
    plain_kind: Norm | None = None

    @classmethod
    def of(cls, norm: Norm, layers: LayerNorm = "auto", *, beside_bn: Norm | None = None) -> Self:
        """The norms of a network whose neck or head says `layers`. Under ``auto`` plain convolutions have the network's
        norm, but `beside_bn` in place of ``bn``: several levels share a head's layer, so batch statistics would mix
        them, and the FPN paper has none."""
        if layers == "none":
            return cls(norm, None)
        if layers == "auto":
            return cls(norm, beside_bn if norm == "bn" else norm)
        return cls(norm, layers)

    def norm(self, channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels) if self.kind == "bn" else GroupNorm(channels)

    def conv(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, bias: bool = False
    ) -> nn.Conv2d:
        """A convolution that a norm follows: no bias unless asked for, padding that keeps the size at stride 1, He
        initialisation."""
        few = kernel == 1 and stride > 1 and inputs // groups < BLOCK
        kinds = (PickedConv2d, WSPickedConv2d) if few else (nn.Conv2d, WSConv2d)
        kind: type[nn.Conv2d] = kinds[self.kind == "gn_ws"]
        conv = kind(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return conv

    def plain(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, bias: bool = False) -> nn.Sequential:
        """A convolution of a neck or a head with the norm of `plain_kind` (and a bias, if asked for: group norm does
        not take it away), or with a bias and no norm."""
        if self.plain_kind is None:
            return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2))
        own = Norms(self.plain_kind)
        return nn.Sequential(own.conv(inputs, outputs, kernel, stride=stride, bias=bias), own.norm(outputs))
