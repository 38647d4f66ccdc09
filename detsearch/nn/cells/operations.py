"""What an edge of a cell does: FAD's transformations (Zhong et al., "Representation Sharing for Fast Object Detector
Search and Beyond", ECCV 2020, sec. 3) and DARTS's operations (Liu et al., ICLR 2019), each (B, C, H, W) -> the same.

In all of them a convolution is followed by its norm and a ReLU, so that sets of operations differ in nothing else.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.cells import OPERATIONS
from detsearch.nn.norms import Norms

M = TypeVar("M", bound=nn.Module)

REPEATED: Final = {"dsep3": (3, 1, 2), "dsep5": (5, 1, 2), "ddil3": (3, 2, 1), "ddil5": (5, 2, 1)}
"""DARTS's convolutions, all separable: kernel, dilation, how many in a row."""


def build_operation(token: str, channels: int, norms: Norms, *, stride: int = 1) -> nn.Module:
    """The operation of a token of `arch.cells.OPERATIONS` on `channels` channels. Of DARTS's, pooling and identity also
    have a form of `stride` 2, for cells that reduce maps: (B, C, H, W) to half of H and W, rounded up."""
    operation = OPERATIONS[token]
    assert stride == 1 or token in ("max3", "avg3", "skip"), f"{token} keeps the size"
    if operation.stream is not None:
        separable = operation.stream == "sep"
        layers = [convolution(norms, channels, separable=separable) for _ in range(operation.convs)]
        if operation.dilation:
            layers.append(convolution(norms, channels, separable=True, dilation=operation.dilation))
        return nn.Sequential(*layers)
    if token in REPEATED:
        kernel, dilation, times = REPEATED[token]
        layer = (convolution(norms, channels, kernel, separable=True, dilation=dilation) for _ in range(times))
        return nn.Sequential(*layer)
    if token == "max3":
        return nn.MaxPool2d(3, stride, 1)
    if token == "avg3":
        return nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    return nn.Identity() if stride == 1 else Halving(channels, channels, norms)


class Halving(nn.Module):
    """What stands for the identity where maps are halved (Liu et al., ICLR 2019): a ReLU, then half of the outputs by a
    1x1 convolution of every second place, the others by one of the places beside them, and a norm. (B, inputs, H, W) to
    (B, outputs, H / 2, W / 2), rounded up."""

    def __init__(self, inputs: int, outputs: int, norms: Norms) -> None:
        super().__init__()
        half = outputs // 2
        self.even = norms.conv(inputs, outputs - half, 1, stride=2)
        self.odd = norms.conv(inputs, half, 1, stride=2)
        self.norm = norms.norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        beside = F.pad(x, (0, 1, 0, 1))[..., 1:, 1:]
        # Channel groups side by side, for when several of these are one module (`supernet.grouped.merged`).
        lanes = self.even.groups
        parts = [part.unflatten(1, (lanes, -1)) for part in (self.even(x), self.odd(beside))]
        y: Tensor = self.norm(torch.cat(parts, dim=2).flatten(1, 2))
        return y


def convolution(norms: Norms, channels: int, kernel: int = 3, *, separable: bool, dilation: int = 1) -> nn.Sequential:
    """A convolution with a bias, its norm and a ReLU; if `separable`, a depthwise one and then a pointwise one without
    anything between them, and only that may be dilated."""
    if not separable:
        assert dilation == 1
        layer = norms.plain(channels, channels, kernel, bias=True)
        keep_variance(layer[0], "relu")
        return layer.append(nn.ReLU(inplace=True))
    depthwise = nn.Conv2d(
        channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=channels, bias=False
    )
    keep_variance(depthwise, "linear")
    pointwise = norms.plain(channels, channels, 1, bias=True)
    keep_variance(pointwise[0], "relu")
    return nn.Sequential(depthwise, *pointwise, nn.ReLU(inplace=True))


def keep_variance(conv: M, followed_by: Literal["relu", "linear"]) -> M:
    """Initialise a convolution so that values keep their variance through it and what follows (He et al., ICCV 2015).

    The towers that cells replace begin with deviations of 0.01. Here that would leave so little behind a depthwise
    convolution that the epsilon of group norm, not the data, would decide what comes out.
    """
    assert isinstance(conv, nn.Conv2d)
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity=followed_by)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
