"""The structural space (SM-NAS, stage one): which modules, at which input size."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np

from detsearch.arch.catalogue import ABSENT, Catalogue, catalogue
from detsearch.arch.code import format_module, parse_module
from detsearch.arch.spaces.base import draw_change
from detsearch.arch.spec import NORMS, DetectorSpec, ModuleSpec, NetworkSpec, Norm, Slot
from detsearch.errors import RecipeError, SpecError
from detsearch.types import InputSize

DIMENSIONS: Final = ("backbone", "neck", "proposals", "head", "norm", "input")
"""The lists of choices that a recipe may give."""

MAX_COMBINATIONS: Final = 200_000
"""More combinations than this are refused: a space is enumerated, and no study would get round it."""

Key: TypeAlias = "tuple[int | None, ...]"
"""A detector as positions in the lists of choices: backbone, neck, (proposals, head), norm, input; None: not listed."""

LEVEL_SETS: Final = tuple(
    "-".join(map(str, levels)) for count in range(3, 7) for levels in itertools.combinations(range(2, 8), count)
)
"""Every set of at least three of P2..P7: 42, which makes the size of the paper's space."""

DEFAULT_CHOICES: Final[Mapping[str, Sequence[Any]]] = {
    "backbone": [
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnext50_32x4d",
        "resnext101_32x4d",
        "mobilenetv2",
    ],
    "neck": [ABSENT, {"fpn": {"levels": LEVEL_SETS}}],
    "proposals": [ABSENT, "rpn", "ga_rpn"],
    "head": ["retinanet", "2fc", {"cascade": {"stages": [2, 3, 4]}}],
    "norm": ["bn"],
    "input": ["512x512", "800x600", "1080x720", "1333x800"],
}
"""The paper's space: 43 necks, 7 backbones and 4 inputs with RetinaNet's head alone, or with either of two kinds of
proposals and any of four R-CNN heads, so 10,836 detectors."""


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
    def from_choices(cls, choices: Mapping[str, Any]) -> StructuralSpace:
        """Read the lists of a recipe.

        A choice is a module's text (``none`` for an empty neck or proposals), or a mapping from a token to lists of
        field values, which stands for their product: ``{fpn: {levels: [3-4-5, 2-3-4-5], width: [64, 128]}}``.
        Parts that are not named keep those of the `DEFAULT_CHOICES` that are valid beside the others. RecipeError names
        the list and the entry, also for a listed choice that stands in no valid combination.
        """
        if not isinstance(choices, Mapping):
            raise RecipeError("space", f"lists under {', '.join(DIMENSIONS)}", repr(choices))
        listed = tuple(choices)
        choices = {**DEFAULT_CHOICES, **choices}
        for name, entries in choices.items():
            if name not in DIMENSIONS:
                raise RecipeError(f"space.{name}", f"one of {', '.join(DIMENSIONS)}", repr(name))
            if not isinstance(entries, (list, tuple)) or not entries:
                raise RecipeError(f"space.{name}", "a list of one or more choices", repr(entries))
        space = cls(
            backbones=tuple(_required(_modules(choices, "backbone"), "backbone")),
            necks=tuple(_modules(choices, "neck")),
            proposals=tuple(_modules(choices, "proposals")),
            heads=tuple(_required(_modules(choices, "head"), "head")),
            norms=tuple(_norm(entry, n) for n, entry in enumerate(choices["norm"])),
            inputs=tuple(_input(entry, n) for n, entry in enumerate(choices["input"])),
        )
        for name, texts in space.to_choices().items():
            most, times = Counter(texts).most_common(1)[0]
            if times > 1:
                raise RecipeError(f"space.{name}", "every choice once", f"{most!r} {times} times")
        if (count := math.prod(map(len, space._dimensions))) > MAX_COMBINATIONS:
            raise RecipeError("space", f"at most {MAX_COMBINATIONS} combinations", str(count), "shorten the lists")
        if not space._valid:
            raise RecipeError("space", "a combination that is valid", f"none ({space._why_empty()})")
        used = space._used()
        for name in listed:
            space._refuse_idle(name, used[name])
        kept = [
            tuple(value for position, value in enumerate(values) if position in used[name])
            for name, values in zip(DIMENSIONS, space._dimensions, strict=True)
        ]
        return space if tuple(kept) == space._dimensions else cls(*kept)

    def _used(self) -> dict[str, set[int]]:
        """Positions, in each list, of the choices that stand in some valid combination."""
        backbones, necks, pairs, norms, inputs = (set(column) for column in zip(*self._valid, strict=True))
        proposals, heads = ({divmod(pair, len(self.heads))[i] for pair in pairs if pair is not None} for i in (0, 1))
        return dict(zip(DIMENSIONS, (backbones, necks, proposals, heads, norms, inputs), strict=True))

    def _refuse_idle(self, name: str, used: set[int]) -> None:
        """RecipeError if a choice of a list is not among the used ones: who wrote it expects it to be tried."""
        for position, value in enumerate(self._dimensions[DIMENSIONS.index(name)]):
            if position not in used:
                valid = self._list[0]
                instead = valid.input if name == "input" else getattr(valid.network, name)
                changed = replace(valid, input=value) if name == "input" else valid.with_network(**{name: value})
                where = f"space.{name} choice {position + 1}"
                reason = f"{_text(value)!r}, which is in none (in place of {_text(instead)}: {_fault(changed)})"
                raise RecipeError(where, "a choice that is valid beside some of the others", reason, "leave it out")

    def to_choices(self) -> dict[str, list[str]]:
        """The lists as text, canonical: what identifies a space."""
        return {
            name: [_text(value) for value in values] for name, values in zip(DIMENSIONS, self._dimensions, strict=True)
        }

    @property
    def _dimensions(self) -> tuple[tuple[Any, ...], ...]:
        return self.backbones, self.necks, self.proposals, self.heads, self.norms, self.inputs

    @cached_property
    def _parts(self) -> tuple[tuple[Any, ...], ...]:
        """What a mutation changes: the choices for each part."""
        return self.backbones, self.necks, tuple(itertools.product(self.proposals, self.heads)), self.norms, self.inputs

    @cached_property
    def _positions(self) -> tuple[dict[Any, int], ...]:
        return tuple({value: position for position, value in enumerate(values)} for values in self._parts)

    @cached_property
    def _valid(self) -> dict[Key, DetectorSpec]:
        """Every valid detector by its key, so that looking for neighbours builds and hashes no detectors."""
        known = catalogue()
        found: dict[Key, DetectorSpec] = {}
        *networks, inputs = (range(len(values)) for values in self._parts)
        for key in itertools.product(*networks):
            network = self._network(key)
            if _holds(known, network):
                for position in inputs:
                    spec = network.at(self.inputs[position])
                    if _fits(known, spec):
                        found[*key, position] = spec
        return found

    @cached_property
    def _list(self) -> tuple[DetectorSpec, ...]:
        return tuple(self._valid.values())

    def _network(self, key: tuple[int, ...]) -> NetworkSpec:
        backbone, neck, (proposals, head), norm = (v[k] for v, k in zip(self._parts, key, strict=False))
        return NetworkSpec(backbone=backbone, neck=neck, proposals=proposals, head=head, norm=norm)

    def _why_empty(self) -> str:
        """What is wrong with the first combination."""
        return f"the first: {_fault(self._network((0, 0, 0, 0)).at(self.inputs[0]))}"

    def _key(self, spec: DetectorSpec) -> Key:
        net = spec.network
        values = (net.backbone, net.neck, (net.proposals, net.head), net.norm, spec.input)
        return tuple(positions.get(value) for positions, value in zip(self._positions, values, strict=True))

    def size(self) -> int:
        """Exact number of valid combinations."""
        return len(self._valid)

    def all(self) -> Iterator[DetectorSpec]:
        return iter(self._list)

    def contains(self, spec: DetectorSpec) -> bool:
        return self._key(spec) in self._valid

    def sample(self, rng: np.random.Generator) -> DetectorSpec:
        return self._list[int(rng.integers(len(self._list)))]

    def neighbours(self, spec: DetectorSpec) -> Iterator[DetectorSpec]:
        """Every detector of the space that differs in one part."""
        for changed in self._changed(spec):
            yield from (self._valid[key] for key in changed)

    def mutate(self, spec: DetectorSpec, rng: np.random.Generator) -> DetectorSpec:
        """Change one part: first the part is drawn, then its new choice, so that a long list does not drown others."""
        key = draw_change(self._changed(spec), rng)
        return spec if key is None else self._valid[key]

    def _changed(self, spec: DetectorSpec) -> Iterator[list[Key]]:
        """The keys of a spec's neighbours, by the part that is changed."""
        key = self._key(spec)
        for part, values in enumerate(self._parts):
            candidates = ((*key[:part], new, *key[part + 1 :]) for new in range(len(values)) if new != key[part])
            yield [candidate for candidate in candidates if candidate in self._valid]


def _text(value: Any) -> str:
    if value is None:
        return ABSENT
    return format_module(value) if isinstance(value, ModuleSpec) else str(value)


def _holds(known: Catalogue, network: NetworkSpec) -> bool:
    try:
        known.check(network)
    except SpecError:
        return False
    return True


def _fault(spec: DetectorSpec) -> SpecError | None:
    """What is wrong with a combination."""
    try:
        catalogue().check(spec.network)
        catalogue().check_input(spec)
    except SpecError as error:
        return error
    return None


def _fits(known: Catalogue, spec: DetectorSpec) -> bool:
    try:
        known.check_input(spec)
    except SpecError:
        return False
    return True


def _modules(choices: Mapping[str, Any], name: Slot) -> list[ModuleSpec | None]:
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
            if (count := math.prod(map(len, options.values()))) > MAX_COMBINATIONS:
                raise RecipeError(where, f"at most {MAX_COMBINATIONS} combinations", str(count), "shorten the lists")
            named = [[f"{field}={_scalar(value)}" for value in values] for field, values in options.items()]
            fields = [",".join(combination) for combination in itertools.product(*named)]
            return [f"{token}({text})" if text else str(token) for text in fields]
    raise RecipeError(where, "a module's text, or {token: {field: [values]}}", repr(entry))


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(str, value))
    if value is None:
        return ABSENT
    return str(value).lower() if isinstance(value, bool) else str(value)


def _required(found: list[ModuleSpec | None], name: str) -> list[ModuleSpec]:
    modules = [module for module in found if module is not None]
    if len(modules) < len(found) or not modules:
        raise RecipeError(f"space.{name}", f"one or more {name}s", ABSENT)
    return modules


def _norm(entry: Any, number: int) -> Norm:
    if entry not in NORMS:
        raise RecipeError(f"space.norm[{number}]", f"one of {', '.join(NORMS)}", repr(entry))
    norm: Norm = entry
    return norm


def _input(entry: Any, number: int) -> InputSize:
    try:
        return InputSize.parse(str(entry))
    except SpecError as error:
        raise RecipeError(f"space.input[{number}]", error.expected, error.received) from None
