"""The structural space (SM-NAS, stage one): which modules, at which input size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from detsearch.arch.catalogue import ABSENT, Catalogue, catalogue
from detsearch.arch.code import format_module, parse_module
from detsearch.arch.spec import NORMS, DetectorSpec, ModuleSpec, NetworkSpec, Norm, Slot
from detsearch.errors import RecipeError, SpecError
from detsearch.types import InputSize

DIMENSIONS: Final = ("backbone", "neck", "proposals", "head", "norm", "input")
"""The lists of choices that a recipe may give."""

LEVEL_SETS: Final = tuple(
    "-".join(map(str, levels)) for count in range(3, 7) for levels in itertools.combinations(range(2, 8), count)
)
"""Every set of at least three of P2..P7: 42, which makes the size of the paper's space."""

DEFAULT_CHOICES: Final[Mapping[str, Sequence[Any]]] = {
    "backbone": ["resnet18", "resnet34", "resnet50", "resnet101", "mobilenetv2"],
    "neck": [{"fpn": {"levels": LEVEL_SETS}}],
    "proposals": [ABSENT],
    "head": ["retinanet"],
    "norm": ["bn"],
    "input": ["512x512", "800x600", "1080x720", "1333x800"],
}
"""The paper's space as far as there are modules for it."""


@dataclass(frozen=True)
class StructuralSpace:
    """Every valid combination of the choices for each part.

    A mutation changes one part to another choice. Proposals and head count as one part, because most changes of one are
    only valid with a change of the other.
    """

    backbones: tuple[ModuleSpec, ...]
    necks: tuple[ModuleSpec | None, ...]
    proposals: tuple[ModuleSpec | None, ...]
    heads: tuple[ModuleSpec, ...]
    norms: tuple[Norm, ...]
    inputs: tuple[InputSize, ...]

    @classmethod
    def from_choices(cls, choices: Mapping[str, Sequence[Any]]) -> StructuralSpace:
        """Read the lists of a recipe.

        A choice is a module's text (``none`` for an empty neck or proposals), or a mapping from a token to lists of
        field values, which stands for their product: ``{fpn: {levels: [3-4-5, 2-3-4-5], width: [64, 128]}}``.
        Parts that are not named keep `DEFAULT_CHOICES`. RecipeError names the list and the entry.
        """
        for name in choices:
            if name not in DIMENSIONS:
                raise RecipeError(f"space.{name}", f"one of {', '.join(DIMENSIONS)}", repr(name))
        choices = {**DEFAULT_CHOICES, **choices}
        space = cls(
            backbones=tuple(_required(_modules(choices, "backbone"), "backbone")),
            necks=tuple(_modules(choices, "neck")),
            proposals=tuple(_modules(choices, "proposals")),
            heads=tuple(_required(_modules(choices, "head"), "head")),
            norms=tuple(_norm(entry) for entry in choices["norm"]),
            inputs=tuple(_input(entry) for entry in choices["input"]),
        )
        for name, values in zip(DIMENSIONS, space._dimensions, strict=True):
            if len(set(values)) < len(values):
                raise RecipeError(f"space.{name}", "every choice once", "a choice twice")
        if not space._valid:
            raise RecipeError("space", "at least one valid combination", "none", "see `detsearch describe` for why")
        return space

    def to_choices(self) -> dict[str, list[str]]:
        """The lists as text, canonical: what identifies a space."""
        return {
            name: [
                ABSENT if value is None else format_module(value) if isinstance(value, ModuleSpec) else str(value)
                for value in values
            ]
            for name, values in zip(DIMENSIONS, self._dimensions, strict=True)
        }

    @property
    def _dimensions(self) -> tuple[tuple[Any, ...], ...]:
        return self.backbones, self.necks, self.proposals, self.heads, self.norms, self.inputs

    @cached_property
    def _pairs(self) -> tuple[tuple[ModuleSpec | None, ModuleSpec], ...]:
        return tuple(itertools.product(self.proposals, self.heads))

    @cached_property
    def _valid(self) -> tuple[DetectorSpec, ...]:
        """Every valid detector. Enumerated once; structural spaces are tens of thousands at the most."""
        known = catalogue()
        found = []
        for backbone, neck, pair, norm in itertools.product(self.backbones, self.necks, self._pairs, self.norms):
            network = NetworkSpec(backbone=backbone, neck=neck, proposals=pair[0], head=pair[1], norm=norm)
            if _holds(known, network):
                found += [spec for size in self.inputs if _fits(known, spec := network.at(size))]
        return tuple(found)

    @cached_property
    def _members(self) -> frozenset[DetectorSpec]:
        return frozenset(self._valid)

    def size(self) -> int:
        """Exact number of valid combinations."""
        return len(self._valid)

    def all(self) -> Iterator[DetectorSpec]:
        return iter(self._valid)

    def contains(self, spec: DetectorSpec) -> bool:
        return spec in self._members

    def sample(self, rng: np.random.Generator) -> DetectorSpec:
        return self._valid[int(rng.integers(len(self._valid)))]

    def neighbours(self, spec: DetectorSpec) -> Iterator[DetectorSpec]:
        """Every detector of the space that differs in one part."""
        for part in self._parts(spec):
            yield from part

    def mutate(self, spec: DetectorSpec, rng: np.random.Generator) -> DetectorSpec:
        """Change one part: first the part is drawn, then its new choice, so that a long list does not drown others."""
        parts = [part for part in self._parts(spec) if part]
        if not parts:
            return spec
        part = parts[int(rng.integers(len(parts)))]
        return part[int(rng.integers(len(part)))]

    def _parts(self, spec: DetectorSpec) -> list[list[DetectorSpec]]:
        """The neighbours of a spec, by the part that is changed."""
        network = spec.network
        changed: list[list[DetectorSpec]] = [
            [spec.with_network(backbone=choice) for choice in self.backbones if choice != network.backbone],
            [spec.with_network(neck=choice) for choice in self.necks if choice != network.neck],
            [
                spec.with_network(proposals=proposals, head=head)
                for proposals, head in self._pairs
                if (proposals, head) != (network.proposals, network.head)
            ],
            [spec.with_network(norm=choice) for choice in self.norms if choice != network.norm],
            [network.at(size) for size in self.inputs if size != spec.input],
        ]
        return [[option for option in options if option in self._members] for options in changed]


def _holds(known: Catalogue, network: NetworkSpec) -> bool:
    try:
        known.check(network)
    except SpecError:
        return False
    return True


def _fits(known: Catalogue, spec: DetectorSpec) -> bool:
    try:
        known.check_input(spec)
    except SpecError:
        return False
    return True


def _modules(choices: Mapping[str, Sequence[Any]], name: Slot) -> list[ModuleSpec | None]:
    found: list[ModuleSpec | None] = []
    for number, entry in enumerate(choices[name]):
        where = f"space.{name}[{number}]"
        for text in _texts(entry, where):
            try:
                found.append(None if text == ABSENT else parse_module(text, name))
            except SpecError as error:
                raise RecipeError(where, "a module", f"{text!r} ({error})") from None
    return found


def _texts(entry: Any, where: str) -> list[str]:
    """The module texts that one entry of a list stands for."""
    if isinstance(entry, str):
        return [entry]
    if isinstance(entry, Mapping) and len(entry) == 1:
        token, options = next(iter(entry.items()))
        if isinstance(options, Mapping) and all(isinstance(v, (list, tuple)) and v for v in options.values()):
            named = [[f"{field}={_scalar(value)}" for value in values] for field, values in options.items()]
            return [f"{token}({','.join(combination)})" for combination in itertools.product(*named)]
    raise RecipeError(where, "a module's text, or {token: {field: [values]}}", repr(entry))


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _required(found: list[ModuleSpec | None], name: str) -> list[ModuleSpec]:
    modules = [module for module in found if module is not None]
    if len(modules) < len(found) or not modules:
        raise RecipeError(f"space.{name}", f"one or more {name}s", ABSENT)
    return modules


def _norm(entry: Any) -> Norm:
    if entry not in NORMS:
        raise RecipeError("space.norm", f"one or more of {', '.join(NORMS)}", repr(entry))
    norm: Norm = entry
    return norm


def _input(entry: Any) -> InputSize:
    try:
        return InputSize.parse(str(entry))
    except SpecError as error:
        raise RecipeError("space.input", "WxH in pixels such as 512x512", error.received) from None
