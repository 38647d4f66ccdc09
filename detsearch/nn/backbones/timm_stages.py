"""Where the stages of a timm feature model begin and end, from the names of the modules that give out its maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from detsearch.errors import SpecError

WRAPPERS = ("model", "body")
"""The only child of a feature model that leaves the classifier's modules where they were."""


class _Unit(NamedTuple):
    """A module that belongs to one stage as a whole; which of the given ends it is; whether the model runs without it,
    because all around it is mere containers."""

    parent: nn.Module
    name: str
    module: nn.Module
    end: str | None
    removable: bool


def stages_of(body: nn.Module, stem_end: str | None, ends: Sequence[str]) -> list[list[nn.Module]]:
    """The modules of the stem, then of each stage, which ends with the module named in `ends`. Without `stem_end` the
    stem is all that stands before the first stage's own module.

    SpecError where some module has parts in two stages, or the modules do not stand in the order in which they run.
    """
    wanted = [flat(end) for end in (stem_end, *ends) if end is not None]
    found: list[list[nn.Module]] = [[]]
    seen = []
    for unit in _units(_root(body), wanted):
        if stem_end is None and unit.end == wanted[0]:
            found.append([])
        found[-1].append(unit.module)
        if unit.end is not None:
            seen.append(unit.end)
            found.append([])
    if seen != wanted:
        raise _unknown(body)
    return found[:-1]


def remove_behind(body: nn.Module, end: str) -> None:
    """Take out all that stands behind the module named `end`; SpecError where it cannot be taken out."""
    units = list(_units(_root(body), [flat(end)]))
    ends = [number for number, unit in enumerate(units) if unit.end is not None]
    if not ends:
        raise _unknown(body)
    for unit in reversed(units[ends[0] + 1 :]):
        if not unit.removable:
            raise _unknown(body)
        delattr(unit.parent, unit.name)


def flat(name: str) -> str:
    """A module's name as feature models that were rewritten have it."""
    return name.replace(".", "_")


def _units(module: nn.Module, ends: Sequence[str], path: str = "", contained: bool = True) -> Iterator[_Unit]:
    """The largest modules that contain none of `ends` but at their own end. What a whole model does with its children
    is its own affair (`contained` at the root), as long as it does it to containers."""
    container = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    for name, child in module.named_children():
        at = f"{path}{name}"
        if flat(at) in ends:
            yield _Unit(module, name, child, flat(at), contained and container)
        elif any(end.startswith(f"{flat(at)}_") for end in ends):
            if any(True for _ in child.parameters(recurse=False)):
                raise _unknown(child)
            yield from _units(child, ends, f"{at}.", contained and (container or path == ""))
        else:
            yield _Unit(module, name, child, None, contained and container)


def _root(body: nn.Module) -> nn.Module:
    children = dict(body.named_children())
    return children[next(iter(children))] if len(children) == 1 and set(children) <= set(WRAPPERS) else body


def _unknown(module: nn.Module) -> SpecError:
    return SpecError("stages of a timm model", "one module after the other, stage by stage", type(module).__name__)
