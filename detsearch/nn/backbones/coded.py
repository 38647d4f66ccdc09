"""The coded backbone: ResNet, ResNeXt and inverted residuals from a block code, at any depth and width.

``basicblock_64_11-21-21-21`` with the ``7x7`` stem is ResNet-18. Apart from `stem.` before the first convolution and
its norm, parameters carry torchvision's names.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from torch import Tensor, nn
from torchvision.models import get_model_weights

from detsearch.arch.blockcode import FIRST_STAGE, BlockCode, BlockShape, Stem
from detsearch.arch.modules.backbones import CodedResNetSpec
from detsearch.arch.spec import Norm
from detsearch.errors import ResourceError
from detsearch.nn.backbones.weights import State
from detsearch.nn.blocks import BasicBlock, Bottleneck, InvertedResidual, conv_norm_relu
from detsearch.nn.norms import Norms
from detsearch.types import FeatureSpec

PUBLISHED: Final = {
    "basicblock_64_11-21-21-21": "resnet18",
    "basicblock_64_111-2111-211111-211": "resnet34",
    "bottleneck_64_111-2111-211111-211": "resnet50",
    f"bottleneck_64_111-2111-2{'1' * 22}-211": "resnet101",
    "Xbottleneck_64_111-2111-211111-211": "resnext50_32x4d",
}
"""Codes whose ImageNet weights torchvision publishes, with the 7x7 stem, bn and the stride in the 3x3."""


class CodedResNet(nn.Module):
    """Stem and four stages; ``(B, 3, H, W)`` to maps P2..P5 of ``out.channels``, each side ceil(side / stride)."""

    def __init__(self, code: BlockCode, norms: Norms, *, stem: Stem = "deep", stride_in_1x1: bool = False) -> None:
        super().__init__()
        self.code = code
        self.classical = stem == "7x7" and norms.kind == "bn" and not stride_in_1x1
        self.stem = _stem(stem, code.base, norms)
        self.stages = []
        for number in range(len(code.stages)):
            shapes = [shape for shape in code.blocks if shape.stage == number + FIRST_STAGE]
            stage = nn.Sequential(*(_block(code, shape, norms, stride_in_1x1) for shape in shapes))
            self.add_module(f"layer{number + 1}", stage)
            self.stages.append(f"layer{number + 1}")
        self.out = FeatureSpec.of(tuple(range(FIRST_STAGE, FIRST_STAGE + len(code.stages))), code.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps

    def imagenet_state(self) -> State:
        """Published weights under this module's names; ResourceError where there are none or they cannot be had."""
        name = PUBLISHED.get(str(self.code))
        if name is None or not self.classical:
            raise ResourceError(
                "imagenet weights",
                f"a code of {', '.join(PUBLISHED.values())} with stem 7x7, norm bn and stride in the 3x3",
                str(self.code) if name is None else f"{name} with another stem, norm or place of the stride",
                "train from scratch or give a local file",
            )
        try:
            state = get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
        except OSError as error:
            raise ResourceError(
                f"imagenet weights of {name}", "them in torch hub's cache, or a network", str(error),
                "give a local file instead",
            ) from error  # fmt: skip
        return self.adopt(state)

    def adopt(self, state: State) -> State:
        """torchvision's (and timm's) names of a whole ResNet to this module's, its classifier left out."""
        return {
            f"stem.{key}" if key.startswith(("conv1.", "bn1.")) else key: value
            for key, value in state.items()
            if not key.startswith("fc.")
        }


def _stem(kind: Stem, base: int, norms: Norms) -> nn.Sequential:
    if kind == "deep":
        return nn.Sequential(
            conv_norm_relu(norms, 3, base // 2, 3, stride=2), conv_norm_relu(norms, base // 2, base, 3, stride=2)
        )
    return nn.Sequential(
        OrderedDict(
            conv1=norms.conv(3, base, 7, stride=2),
            bn1=norms.norm(base),
            relu=nn.ReLU(inplace=True),
            maxpool=nn.MaxPool2d(3, stride=2, padding=1),
        )
    )


def _block(code: BlockCode, shape: BlockShape, norms: Norms, stride_in_1x1: bool) -> nn.Module:
    match code.block:
        case "basicblock":
            return BasicBlock(shape, norms)
        case "bottleneck":
            return Bottleneck(shape, norms, inner=shape.planes, stride_in_1x1=stride_in_1x1)
        case "Xbottleneck":
            inner, groups = 2 * shape.planes, code.base // 2
            return Bottleneck(shape, norms, inner=inner, groups=groups, stride_in_1x1=stride_in_1x1)
        case "mbblock":
            return InvertedResidual(shape, norms)


def build_coded(spec: CodedResNetSpec, *, norm: Norm) -> CodedResNet:
    return CodedResNet(spec.code, Norms(norm), stem=spec.stem, stride_in_1x1=spec.stride_in == "1x1")
