"""Feature pyramid network (Lin et al., CVPR 2017) over any set of levels."""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.modules.necks import ExtraFrom, FPNSpec
from detsearch.arch.spec import Norm
from detsearch.nn.norms import Norms
from detsearch.types import FeatureSpec


class FPN(nn.Module):
    """Maps of `levels`, all `width` channels wide, from the backbone's `features`.

    The top-down path runs from the deepest backbone map down to the finest chosen level and also passes through levels
    that are not chosen; only chosen ones leave. Levels above the backbone's come by stride-2 3x3 convolutions, one
    after the other with a ReLU between (RetinaNet, Lin et al., ICCV 2017, sec. 4), beginning at the coarsest FPN map
    (``p5``) or the coarsest backbone map (``c5``); or every second place of the coarsest FPN map is taken (``pool``;
    Lin et al., CVPR 2017, sec. 4.1, footnote).
    """

    def __init__(
        self,
        features: FeatureSpec,
        norms: Norms,
        *,
        levels: tuple[int, ...],
        width: int,
        extra_from: ExtraFrom = "p5",
    ) -> None:
        super().__init__()
        deepest = features.levels[-1]
        channels = dict(zip(features.levels, features.channels, strict=True))
        self.below = features.levels
        self.from_map = extra_from != "c5"
        extra = range(deepest + 1, levels[-1] + 1)
        needed = {level for level in levels if level <= deepest}
        if extra and self.from_map:
            needed.add(deepest)
        outputs = self.passed(needed)
        paths = [level for level in features.levels if outputs and level >= min(outputs)]
        self.lateral = nn.ModuleDict({str(level): norms.plain(channels[level], width, 1) for level in paths})
        self.output = nn.ModuleDict({str(level): norms.plain(width, width, 3) for level in sorted(outputs)})
        self.learned = extra_from != "pool"
        first = width if self.from_map else channels[deepest]
        self.extra = nn.ModuleDict(
            {
                str(level): nn.MaxPool2d(1, stride=2)
                if not self.learned
                else norms.plain(first if level == extra[0] else width, width, 3, stride=2)
                for level in extra
            }
        )
        initialise(self)
        self.out = FeatureSpec.of(levels, (width,) * len(levels))

    def passed(self, needed: Set[int]) -> Set[int]:
        """The levels of the pyramid that are computed so that those `needed` can leave."""
        return needed

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        backbone = dict(zip(map(str, self.below), maps, strict=True))
        found = self.pyramid(backbone)
        deepest = str(self.below[-1])
        top = found[deepest] if self.from_map and self.extra else backbone[deepest]
        for i, (level, step) in enumerate(self.extra.items()):
            top = found[level] = step(F.relu(top) if i and self.learned else top)
        return [found[str(level)] for level in self.out.levels]

    def pyramid(self, backbone: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps by level, as far as the backbone's levels reach."""
        found: dict[str, Tensor] = {}
        path: Tensor | None = None
        for level in reversed(list(self.lateral)):
            lateral = self.lateral[level](backbone[level])
            if path is not None:
                lateral = lateral + fitted(path, lateral)
            path = lateral
            if level in self.output:
                found[level] = self.output[level](path)
        return found


def initialise(module: nn.Module) -> None:
    """The weights of a neck's convolutions uniform as for a linear unit (He et al., ICCV 2015), their biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_uniform_(part.weight, a=1)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def fitted(x: Tensor, like: Tensor) -> Tensor:
    """A map at the size of another one, each place the nearest."""
    return x if x.shape[-2:] == like.shape[-2:] else F.interpolate(x, size=like.shape[-2:], mode="nearest")


def build_fpn(spec: FPNSpec, *, features: FeatureSpec, norm: Norm) -> FPN:
    norms = Norms.of(norm, spec.norm)
    return FPN(features, norms, levels=spec.levels, width=spec.width, extra_from=spec.extra_from)
