"""The coded backbone: ResNet, ResNeXt and inverted residuals from a block code, at any depth and width.

``basicblock_64_11-21-21-21`` with the ``7x7`` stem is ResNet-18. Apart from `stem.` before the first convolution and
its norm, parameters carry torchvision's names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn
from torchvision.models import get_model_weights

from detsearch.arch.blockcode import FIRST_STAGE, LAST_STAGE, BlockCode, BlockShape, Stem
from detsearch.arch.modules.backbones import CLASSICAL, CodedResNetSpec
from detsearch.arch.spec import Norm
from detsearch.errors import ResourceError
from detsearch.nn.backbones.weights import State
from detsearch.nn.blocks import BasicBlock, Bottleneck, InvertedResidual, conv_norm_relu
from detsearch.nn.norms import Norms
from detsearch.types import FeatureSpec

PUBLISHED: Final[Mapping[str, str]] = {
    "resnet18": "IMAGENET1K_V1",
    "resnet34": "IMAGENET1K_V1",
    "resnet50": "IMAGENET1K_V1",
    "resnet101": "IMAGENET1K_V1",
    "resnext50_32x4d": "IMAGENET1K_V1",
    "resnext101_32x4d": "gluon_in1k",
    "resnext101_32x8d": "IMAGENET1K_V1",
    "resnext101_64x4d": "IMAGENET1K_V1",
}
"""By name, the ImageNet weights of classical networks (with the 7x7 stem, bn and the stride in the 3x3): torchvision's,
or timm's for the one that torchvision has not."""


class CodedResNet(nn.Module):
    """Stem and stages; ``(B, 3, H, W)`` to maps P2..P`last` of ``out.channels``, each side ceil(side / stride)."""

    def __init__(
        self,
        code: BlockCode,
        norms: Norms,
        *,
        stem: Stem = "deep",
        stride_in_1x1: bool = False,
        groups: int = 0,
        group_width: int = 0,
        last: int = LAST_STAGE,
    ) -> None:
        super().__init__()
        self.code = code
        self.classical = stem == "7x7" and norms.kind == "bn" and not stride_in_1x1
        self.cardinality = groups, group_width
        self.stem = _stem(stem, code.base, norms)
        self.stage_names = []
        levels = range(FIRST_STAGE, last + 1)
        for level in levels:
            shapes = [shape for shape in code.blocks if shape.stage == level]
            blocks = (
                _block(code, shape, norms, code.grouped(shape.planes, groups, group_width), stride_in_1x1)
                for shape in shapes
            )
            name = f"layer{level - FIRST_STAGE + 1}"
            self.add_module(name, nn.Sequential(*blocks))
            self.stage_names.append(name)
        self.out = FeatureSpec.of(tuple(levels), code.channels[: len(levels)])

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps

    def stages(self) -> list[list[nn.Module]]:
        """The stem, then the stages that end in P2, P3, ..."""
        return [[self.stem], *([self.get_submodule(name)] for name in self.stage_names)]

    def imagenet_state(self) -> State:
        """Published weights under this module's names; ResourceError where there are none or they cannot be had."""
        name = self._published_name()
        if name is None or not self.classical:
            raise ResourceError(
                "imagenet weights",
                f"a code of {', '.join(PUBLISHED)} with stem 7x7, norm bn and stride in the 3x3",
                str(self.code) if name is None else f"{name} with another stem, norm or place of the stride",
                "train from scratch or give a local file",
            )
        try:
            state = _published(name)
        except OSError as error:
            raise ResourceError(
                f"imagenet weights of {name}", "them in torch hub's cache, or a network", str(error),
                "give a local file instead",
            ) from error  # fmt: skip
        return self.adopt(state)

    def adopt(self, state: State) -> State:
        """torchvision's (and timm's) names of a whole ResNet to this module's; its classifier, and what follows the
        last stage of this module, left out."""
        whole = [f"layer{number + 1}." for number in range(len(self.code.stages))]
        beyond = ("fc.", *whole[len(self.stage_names) :])
        return {
            f"stem.{key}" if key.startswith(("conv1.", "bn1.")) else key: value
            for key, value in state.items()
            if not key.startswith(beyond)
        }

    def _published_name(self) -> str | None:
        for name in PUBLISHED:
            spec = CLASSICAL[name]
            if spec.code == self.code and (spec.groups, spec.group_width) == self.cardinality:
                return name
        return None


def _published(name: str) -> State:
    """OSError where they are out of reach."""
    weights = PUBLISHED[name]
    if weights != "IMAGENET1K_V1":
        import timm  # takes a second, which only these weights are worth

        model: nn.Module = timm.create_model(f"{name}.{weights}", pretrained=True)
        return model.state_dict()
    state: State = get_model_weights(name)[weights].get_state_dict(progress=False, check_hash=True, weights_only=True)
    return state


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


def _block(
    code: BlockCode, shape: BlockShape, norms: Norms, grouped: tuple[int, int], stride_in_1x1: bool
) -> nn.Module:
    match code.block:
        case "basicblock":
            return BasicBlock(shape, norms)
        case "bottleneck" | "Xbottleneck":
            inner, groups = grouped
            return Bottleneck(shape, norms, inner=inner, groups=groups, stride_in_1x1=stride_in_1x1)
        case "mbblock":
            return InvertedResidual(shape, norms)


def build_coded(spec: CodedResNetSpec, *, norm: Norm) -> CodedResNet:
    return CodedResNet(
        spec.code,
        Norms(norm),
        stem=spec.stem,
        stride_in_1x1=spec.stride_in == "1x1",
        groups=spec.groups,
        group_width=spec.group_width,
        last=spec.last,
    )
