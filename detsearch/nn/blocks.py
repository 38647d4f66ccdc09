"""Residual blocks of the coded backbones. Submodules carry torchvision's names, so that its weights load.

Every block class is called as ``block(shape, norms, ...)`` with channels, planes and stride in the BlockShape.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from detsearch.arch.blockcode import EXPANSION, BlockShape
from detsearch.nn.norms import Norms


def conv_norm_relu(
    norms: Norms, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        norms.conv(inputs, outputs, kernel, stride=stride, groups=groups), norms.norm(outputs), nn.ReLU(inplace=True)
    )


def projection(shape: BlockShape, norms: Norms) -> nn.Module | None:
    """The shortcut of a block whose shape changes: a 1x1 convolution and its norm; None where it stays."""
    if shape.stride == 1 and shape.inputs == shape.outputs:
        return None
    return nn.Sequential(norms.conv(shape.inputs, shape.outputs, 1, stride=shape.stride), norms.norm(shape.outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (He et al., CVPR 2016, fig. 5 left)."""

    def __init__(self, shape: BlockShape, norms: Norms) -> None:
        super().__init__()
        self.conv1 = norms.conv(shape.inputs, shape.planes, 3, stride=shape.stride)
        self.bn1 = norms.norm(shape.planes)
        self.conv2 = norms.conv(shape.planes, shape.outputs, 3)
        self.bn2 = norms.norm(shape.outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(shape, norms)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += shortcut
        return self.relu(x)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (He et al., CVPR 2016, fig. 5 right); with `groups` and a wider `inner`, ResNeXt's block (Xie et
    al., CVPR 2017). A stride sits in the 3x3 as in torchvision, or in the first 1x1 as first published."""

    def __init__(
        self, shape: BlockShape, norms: Norms, *, inner: int, groups: int = 1, stride_in_1x1: bool = False
    ) -> None:
        super().__init__()
        first, second = (shape.stride, 1) if stride_in_1x1 else (1, shape.stride)
        self.conv1 = norms.conv(shape.inputs, inner, 1, stride=first)
        self.bn1 = norms.norm(inner)
        self.conv2 = norms.conv(inner, inner, 3, stride=second, groups=groups)
        self.bn2 = norms.norm(inner)
        self.conv3 = norms.conv(inner, shape.outputs, 1)
        self.bn3 = norms.norm(shape.outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(shape, norms)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += shortcut
        return self.relu(x)  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1x1 to six times the channels, depthwise 3x3, linear 1x1; a shortcut only where the shape stays (Sandler et al.,
    CVPR 2018, sec. 3.3)."""

    def __init__(self, shape: BlockShape, norms: Norms) -> None:
        super().__init__()
        hidden = shape.inputs * EXPANSION
        self.conv = nn.Sequential(
            OrderedDict(
                conv1=norms.conv(shape.inputs, hidden, 1),
                bn1=norms.norm(hidden),
                relu1=nn.ReLU6(inplace=True),
                conv2=norms.conv(hidden, hidden, 3, stride=shape.stride, groups=hidden),
                bn2=norms.norm(hidden),
                relu2=nn.ReLU6(inplace=True),
                conv3=norms.conv(hidden, shape.outputs, 1),
                bn3=norms.norm(shape.outputs),
            )
        )
        self.shortcut = shape.stride == 1 and shape.inputs == shape.outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y
