"""Weights of another network, as far as they fit: tensors of the same name and shape.

A tensor is taken whole or not at all: what is cut out of a larger one has learned to work with the rest. In the stages
of a backbone blocks are counted, so that one more in the middle would give another name to all behind it. There, blocks
are aligned first: those of either network in their order, some left out, so that as many weights as possible fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from detsearch.errors import CheckpointError, SpecError
from detsearch.nn.interfaces import Staged
from detsearch.training.checkpoint import read_checkpoint

Block: TypeAlias = "frozenset[tuple[str, tuple[int, ...]]]"
"""Names of a block's tensors within it, and their shapes."""


@dataclass(frozen=True, slots=True)
class Taken:
    """`tensors` of the `of` tensors of a network, with `share` of its parameters, were taken from weights that had been
    trained for `epochs`, not counting what these had begun with."""

    tensors: int
    of: int
    share: float
    epochs: int


def inherit(network: nn.Module, path: Path) -> Taken:
    """Take what fits from a checkpoint of another network. CheckpointError, nothing taken, if there is none, it cannot
    be read, or a weight that fits is not finite."""
    checkpoint = read_checkpoint(path)
    own = network.state_dict()
    found = fitting(own, checkpoint.weights, _stages(network))
    taken = {name: checkpoint.weights[other] for name, other in found.items()}
    for name, tensor in taken.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(str(path), "finite weights", f"others in {found[name]}")
    network.load_state_dict(own | taken)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    share = sum(sizes.get(name, 0) for name in taken) / max(1, sum(sizes.values()))
    return Taken(len(taken), len(own), share, checkpoint.meta.epoch)


def fitting(own: Mapping[str, Tensor], others: Mapping[str, Tensor], stages: Sequence[str] = ()) -> dict[str, str]:
    """By name, which of the `others` each of `own` tensors can take; those that can take none are left out. `stages`
    are the names of modules of `own` whose children are numbered blocks, to be aligned."""
    called: dict[str, str | None] = {name: name for name in own}
    for stage in stages:
        called |= _within(stage, own, others)
    return {
        name: other
        for name, other in called.items()
        if other is not None and other in others and _alike(own[name], others[other])
    }


def _alike(own: Tensor, other: Tensor) -> bool:
    """Can one be copied into the other as it is? A file from outside may hold a tensor of any kind."""
    facts = ("shape", "dtype", "layout", "device")
    return all(getattr(own, fact) == getattr(other, fact) for fact in facts)


def _stages(network: nn.Module) -> list[str]:
    """Names of the stages of a detector's backbone that are sequences of blocks, where it tells them."""
    backbone = network.get_submodule("backbone")
    if not isinstance(backbone, Staged):
        return []
    try:
        stages = backbone.stages()[1:]  # the first is the stem
    except SpecError:  # they cannot be told apart
        return []
    names = {id(module): name for name, module in network.named_modules()}
    return [names[id(part)] for stage in stages for part in stage if isinstance(part, nn.Sequential)]


def _within(stage: str, own: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, str | None]:
    """What the tensors of a stage are called in the other network; None for those of blocks that it does not have."""
    mine, theirs = _blocks(stage, own), _blocks(stage, others)
    pairs = aligned(list(mine.values()), list(theirs.values()))
    at = {list(mine)[i]: list(theirs)[j] for i, j in pairs}
    return {
        f"{stage}.{number}.{name}": f"{stage}.{at[number]}.{name}" if number in at else None
        for number, block in mine.items()
        for name, _ in block
    }


def _blocks(stage: str, state: Mapping[str, Tensor]) -> dict[int, Block]:
    """The numbered blocks of a stage, in order; no network has a thousand of them, whatever a file may say."""
    found: dict[int, set[tuple[str, tuple[int, ...]]]] = {}
    pattern = re.compile(rf"{re.escape(stage)}\.(0|[1-9][0-9]{{0,2}})\.(.+)")
    for key, tensor in state.items():
        if match := pattern.fullmatch(key):
            found.setdefault(int(match[1]), set()).add((match[2], tuple(tensor.shape)))
    return {number: frozenset(found[number]) for number in sorted(found)}


def aligned(mine: Sequence[Block], theirs: Sequence[Block]) -> list[tuple[int, int]]:
    """Pairs of positions, ascending in both, whose blocks have the most numbers in tensors that fit; of several such
    alignments one that leaves out the last ones."""
    best = [[0] * (len(theirs) + 1) for _ in range(len(mine) + 1)]  # of the first i and the first j blocks
    for i, block in enumerate(mine):
        for j, other in enumerate(theirs):
            best[i + 1][j + 1] = max(best[i][j + 1], best[i + 1][j], best[i][j] + _common(block, other))
    pairs = []
    i, j = len(mine), len(theirs)
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


@lru_cache(maxsize=1 << 12)
def _common(block: Block, other: Block) -> int:
    """Numbers in the tensors that two blocks have alike."""
    return sum(torch.Size(shape).numel() for _, shape in block & other)
