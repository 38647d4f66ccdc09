"""The cells of a head: which there are, others in their place, and cells where there were none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from detsearch.arch.catalogue import catalogue
from detsearch.arch.cells import CellSpec
from detsearch.arch.modules.fields import REPLACED_BY_TOWER
from detsearch.arch.modules.towers import CellGroupSpec, CellTowersSpec
from detsearch.arch.spec import ModuleSpec, NetworkSpec
from detsearch.errors import SpecError

M = TypeVar("M", bound=ModuleSpec)


def cells_in(module: ModuleSpec) -> dict[str, CellSpec]:
    """Every cell of a module and of the modules in its fields, by its place, such as ``tower.boxes``."""
    found: dict[str, CellSpec] = {}
    for field in fields(module):
        value = getattr(module, field.name)
        if isinstance(value, CellSpec):
            found[field.name] = value
        elif isinstance(value, ModuleSpec):
            found |= {f"{field.name}.{place}": cell for place, cell in cells_in(value).items()}
    return found


def with_cells(module: M, cells: Mapping[str, CellSpec]) -> M:
    """The module with other cells at the places that are named."""
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, CellSpec]] = {}
    for place, cell in cells.items():
        name, _, rest = place.partition(".")
        if rest:
            inner.setdefault(name, {})[rest] = cell
        else:
            own[name] = cell
    own |= {name: with_cells(getattr(module, name), below) for name, below in inner.items()}
    return replace(module, **own)


def with_tower(network: NetworkSpec) -> NetworkSpec:
    """The network with cells in its head: as it is, if there are some, or else with the default tower in place of the
    convolutions of a one-stage head or of a mask branch, whatever those were.

    SpecError where the head has no place for cells."""
    head = network.head
    if cells_in(head):
        return network
    mask = getattr(head, "mask", None)
    if hasattr(head, "tower"):
        return replace(network, head=_towered(head, CellTowersSpec()))
    if hasattr(mask, "tower"):
        changed: dict[str, Any] = {"mask": _towered(mask, CellGroupSpec())}
        return replace(network, head=replace(head, **changed))
    token = catalogue().of(head).token
    raise SpecError("head", "fcos, retinanet, or a mask branch, where cells may stand", token)


def _towered(module: Any, tower: ModuleSpec) -> Any:
    defaults = {field.name: field.default for field in fields(module) if field.name in REPLACED_BY_TOWER}
    return replace(module, **defaults, tower=tower)
