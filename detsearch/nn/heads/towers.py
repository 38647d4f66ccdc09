"""What stands between the maps and the predictions of a one-stage head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import Tensor, nn

from detsearch.errors import SpecError
from detsearch.nn.norms import Norms
from detsearch.types import FeatureSpec

MOST_FOLLOWED: Final = 512
"""Widest layer that a width of 0 makes: right on a backbone's 2,048 channels, a head would be larger than the
backbone."""


class Towers(nn.Module):
    """Two towers of `depth` 3x3 convolutions with ReLU beside each other, applied to every level alike.

    Other `nn.interfaces.LevelTowers` may stand in their place. `bias`: whether convolutions have one beside a norm too.
    """

    def __init__(self, norms: Norms, inputs: int, width: int, depth: int, *, bias: bool = False) -> None:
        super().__init__()
        self.width = width
        self.classes = tower(norms, inputs, width, depth, bias=bias)
        self.boxes = tower(norms, inputs, width, depth, bias=bias)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return self.classes(level), self.boxes(level)


def normal_weights(module: nn.Module, std: float = 0.01) -> None:
    """Every convolution's and linear layer's weights normal with deviation `std`, its bias zero, as in RetinaNet."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def he_weights(module: nn.Module) -> None:
    """Every convolution's weights as He et al. (ICCV 2015) initialise them, by its outputs, its bias zero: as in the
    convolutions of Mask R-CNN's heads."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def tower(
    norms: Norms,
    inputs: int,
    width: int,
    depth: int,
    *,
    last_stride: int = 1,
    bias: bool = False,
    initialise: Callable[[nn.Module], None] = normal_weights,
) -> nn.Sequential:
    """`depth` 3x3 convolutions, each with its norm (and a `bias` before that, if asked for) and a ReLU."""
    layers = []
    for i in range(depth):
        stride = last_stride if i == depth - 1 else 1
        layer = norms.plain(inputs if i == 0 else width, width, 3, stride=stride, bias=bias)
        layers.append(layer.append(nn.ReLU(inplace=True)))
        initialise(layer)
    return nn.Sequential(*layers)


def width_on(features: FeatureSpec, width: int, most: int = MOST_FOLLOWED) -> int:
    """A width in which 0 follows the maps, as far as `most`."""
    return width or min(features.channels[0], most)


def one_width(head: str, features: FeatureSpec) -> None:
    """SpecError unless all maps below a head, whose layers they share, are equally wide."""
    if len(set(features.channels)) != 1:
        raise SpecError(f"maps below {head}", "one width for all levels, as an fpn gives", str(features.channels))
