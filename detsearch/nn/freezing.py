"""Parts of a pretrained backbone that a training leaves as they are."""

from __future__ import annotations

from itertools import chain
from typing import Self

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detsearch.errors import RecipeError
from detsearch.nn.interfaces import Staged


class Freezable(nn.Module):
    """A network with a `backbone`, parts of which can be frozen."""

    still: tuple[str, ...] = ()
    """Names of modules that stay in evaluation mode in training too."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.still:
            self.get_submodule(name).eval()
        return self


def freeze(network: Freezable, *, stages: int, norms: bool) -> None:
    """Keep the backbone's first `stages` (1: the stem, 2: the stem and the stage that ends in P2, ...) as they are, and
    with `norms` all its batch norms: their parameters need no gradient, and they stay in evaluation mode, so that
    statistics are used and not moved.

    RecipeError where the backbone tells no stages, or has fewer.
    """
    if not stages and not norms:
        return
    backbone = network.get_submodule("backbone")
    frozen = list(chain.from_iterable(first_stages(backbone, stages)))
    if norms:
        frozen += [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    names = {id(module): name for name, module in network.named_modules()}
    for module in frozen:
        module.requires_grad_(False)
    network.still = tuple(dict.fromkeys(names[id(module)] for module in frozen))
    network.train(network.training)


def first_stages(backbone: nn.Module, number: int, field: str = "training.frozen_stages") -> list[list[nn.Module]]:
    """The modules of the first `number` stages; RecipeError, naming the `field`, where there are fewer, or no
    telling."""
    if number == 0:
        return []
    kind = type(backbone).__name__
    if not isinstance(backbone, Staged):
        raise RecipeError(field, f"0, as a {kind} does not tell its stages", str(number))
    stages = [list(stage) for stage in backbone.stages()]
    if number > len(stages):
        raise RecipeError(field, f"0 to {len(stages)}, the stages of a {kind} and its stem", str(number))
    return stages[:number]
