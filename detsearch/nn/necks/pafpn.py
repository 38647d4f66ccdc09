"""Path aggregation: a feature pyramid and a second path back up to its coarsest level (Liu et al., "Path Aggregation
Network for Instance Segmentation", CVPR 2018, sec. 3.1)."""

from __future__ import annotations

from collections.abc import Set
from itertools import pairwise

from torch import Tensor, nn

from detsearch.arch.modules.necks import ExtraFrom, PAFPNSpec
from detsearch.arch.spec import Norm
from detsearch.nn.necks.fpn import FPN, fitted, initialise
from detsearch.nn.norms import Norms
from detsearch.types import FeatureSpec


class PAFPN(FPN):
    """An FPN whose finest map N goes on as it is; from there on

        N(l + 1) = relu(conv3x3(P(l + 1) + relu(conv3x3(N(l), stride 2))))

    up to the coarsest level that leaves, also through levels that are not chosen. Extra levels as in the FPN, from
    the last N in place of the last P.
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
        super().__init__(features, norms, levels=levels, width=width, extra_from=extra_from)
        later = list(self.output)[1:]

        def step(stride: int) -> nn.Sequential:
            return norms.plain(width, width, 3, stride=stride).append(nn.ReLU(inplace=True))

        self.down = nn.ModuleDict({level: step(2) for level in later})
        self.fuse = nn.ModuleDict({level: step(1) for level in later})
        initialise(self.down)
        initialise(self.fuse)

    def passed(self, needed: Set[int]) -> Set[int]:
        return {level for level in self.below if needed and min(needed) <= level <= max(needed)}

    def pyramid(self, backbone: dict[str, Tensor]) -> dict[str, Tensor]:
        found = super().pyramid(backbone)
        for finer, level in pairwise(self.output):
            down = self.down[level](found[finer])
            found[level] = self.fuse[level](found[level] + fitted(down, found[level]))
        return found


def build_pafpn(spec: PAFPNSpec, *, features: FeatureSpec, norm: Norm) -> PAFPN:
    norms = Norms.of(norm, spec.norm)
    return PAFPN(features, norms, levels=spec.levels, width=spec.width, extra_from=spec.extra_from)
