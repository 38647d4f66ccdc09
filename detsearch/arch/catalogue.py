"""The catalogue of modules: one `Descriptor` per kind, ours in `arch.modules`, other people's by the entry point
group ``detsearch.modules``.

A third party's package declares

    [project.entry-points."detsearch.modules"]
    mine = "mypackage.detsearch_modules:MODULES"

where MODULES is a Descriptor or a sequence of them. Loading it must not import torch: a builder is a lazy path.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal, TypeAlias

from detsearch.arch.spec import NORMS, SLOTS, DetectorSpec, ModuleSpec, NetworkSpec, Slot
from detsearch.errors import SpecError, UserError

ENTRY_POINT_GROUP: Final = "detsearch.modules"
ABSENT: Final = "none"
"""How an empty neck or proposals slot is called in text and in `beside`."""
WORD: Final = re.compile(r"[A-Za-z0-9_.\-]+")
"""What a token, a name, or a string in text may look like."""

Order: TypeAlias = Callable[[Any, Any], bool]
"""``order(a, b)``: is b at least as deep or wide as a? Must be reflexive, antisymmetric and transitive."""


@dataclass(frozen=True, kw_only=True)
class Descriptor:
    """One kind of module.

    `token` is its name in text. `builder` is the lazy path ``package.module:function`` of a function that the
    assembling code calls with keywords, by slot:

    * backbone ``(spec, *, norm) -> module`` with attribute ``out: FeatureSpec``
    * neck ``(spec, *, features, norm) -> module`` with attribute ``out: FeatureSpec``
    * proposals ``(spec, *, features, norm) -> module``
    * head ``(spec, *, features, num_classes, norm) -> module``
    * inner, a module in a field of another one, whose builder makes it: as for a head; `features` are those that the
      module around it sees

    `beside` restricts the other slots: slot -> tokens that may stand there (`ABSENT` for none, ``*`` for any that is
    present); slots not named are free. `order` names the fields that make a network deeper or wider, each with its
    order; all other fields must be equal for two specs to be comparable. `names` are well-known instances
    (``resnet50``), usable wherever the token is. `atom` is a field and the pattern of its text, where that text alone
    stands for the module (a block code); the pattern must end where the text does. `levels`, for a backbone, gives the
    levels of its maps and, for a neck, of its output: ``levels(spec, levels below)``, where no levels below means that
    the backbone does not tell; it lets a combination be refused before anything is built.
    """

    slot: Slot | Literal["inner"]
    token: str
    spec: type[ModuleSpec]
    builder: str
    summary: str
    beside: Mapping[Slot, tuple[str, ...]] = field(default_factory=dict)
    order: Mapping[str, Order] = field(default_factory=dict)
    names: Mapping[str, ModuleSpec] = field(default_factory=dict)
    atom: tuple[str, str] | None = None
    levels: Callable[[Any, tuple[int, ...]], tuple[int, ...]] | None = None

    def load_builder(self) -> Callable[..., Any]:
        """Import the builder; this is where torch comes in."""
        module, _, function = self.builder.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return loaded

    def leq(self, a: ModuleSpec, b: ModuleSpec, inner: Order) -> bool:
        """Is b, of this kind as a is, the same as a or deeper or wider? `inner` compares modules in fields."""

        def field_leq(name: str) -> bool:
            x, y = getattr(a, name), getattr(b, name)
            if name in self.order:
                return self.order[name](x, y)
            return inner(x, y) if isinstance(x, ModuleSpec) and isinstance(y, ModuleSpec) else bool(x == y)

        return all(field_leq(f.name) for f in fields(a))


class Catalogue:
    """Descriptors by token, by name and by spec class; tokens and names are unique over all slots."""

    def __init__(self, descriptors: Iterable[Descriptor]) -> None:
        self._by_token: dict[str, Descriptor] = {}
        self._by_name: dict[str, tuple[Descriptor, ModuleSpec]] = {}
        self._by_spec: dict[type[ModuleSpec], Descriptor] = {}
        for descriptor in descriptors:
            self._add(descriptor)

    def _add(self, descriptor: Descriptor) -> None:
        where = f"module {descriptor.token!r} of {descriptor.builder}"
        for word in (descriptor.token, *descriptor.names):
            if WORD.fullmatch(word) is None or word in (*NORMS, ABSENT):
                raise UserError(where, "a name of letters, digits, '_', '.' and '-', and no norm", repr(word))
            if word in self._by_token or word in self._by_name:
                raise UserError(where, "a name of its own", f"{word!r}, which is taken twice", "rename one of the two")
        if descriptor.slot not in (*SLOTS, "inner"):
            raise UserError(where, f"slot {', '.join(SLOTS)} or inner", repr(descriptor.slot))
        if descriptor.spec in self._by_spec:
            taken = self._by_spec[descriptor.spec].token
            raise UserError(where, "a spec of its own", f"{descriptor.spec.__name__}, which describes {taken!r}")
        known = {f.name for f in fields(descriptor.spec)}
        named = {*descriptor.order, *(descriptor.atom or ())[:1]}
        if not named <= known:
            raise UserError(where, f"order and atom over fields ({', '.join(known)})", ", ".join(sorted(named - known)))
        self._by_token[descriptor.token] = descriptor
        self._by_spec[descriptor.spec] = descriptor
        self._by_name.update({name: (descriptor, spec) for name, spec in descriptor.names.items()})

    def __iter__(self) -> Iterator[Descriptor]:
        return iter(self._by_token.values())

    def get(self, token: str) -> Descriptor | None:
        return self._by_token.get(token)

    def named(self, name: str) -> tuple[Descriptor, ModuleSpec] | None:
        return self._by_name.get(name)

    def of(self, spec: ModuleSpec) -> Descriptor:
        """The descriptor of a spec; SpecError if its kind is not in the catalogue."""
        try:
            return self._by_spec[type(spec)]
        except KeyError:
            raise SpecError(
                "module", "a kind in the catalogue", type(spec).__name__, "is the package installed that brings it?"
            ) from None

    def build(self, spec: ModuleSpec, **given: Any) -> Any:
        """The module that the builder of a spec makes of it and the keywords of its slot."""
        return self.of(spec).load_builder()(spec, **given)

    def words(self) -> list[str]:
        """Every token and name, for suggestions."""
        return [*self._by_token, *self._by_name]

    def check(self, network: NetworkSpec) -> None:
        """Raise SpecError if the modules of a network cannot stand beside each other."""
        tokens = {slot: ABSENT if part is None else self.of(part).token for slot, part in self._parts(network)}
        for slot, part in self._parts(network):
            if part is None:
                continue
            descriptor = self.of(part)
            if descriptor.slot != slot:
                raise SpecError(slot, f"a {slot} module", f"{descriptor.token}, which is a {descriptor.slot} module")
            for other, allowed in descriptor.beside.items():
                if tokens[other] not in allowed and not ("*" in allowed and tokens[other] != ABSENT):
                    wanted = " or ".join(f"any {other}" if word == "*" else word for word in allowed)
                    raise SpecError(f"{other} beside {descriptor.token}", wanted, tokens[other])
        self.levels(network)

    def check_input(self, spec: DetectorSpec, field: str = "input") -> None:
        """Raise SpecError, naming the `field`, if the input is smaller than the largest stride of the maps that reach
        the head."""
        stride = 2 ** max(self.levels(spec.network), default=0)
        if min(spec.input.width, spec.input.height) < stride:
            raise SpecError(field, f"at least {stride} pixels a side, the largest stride", str(spec.input))

    def levels(self, network: NetworkSpec) -> tuple[int, ...]:
        """Levels of the maps that reach proposals and head; SpecError where the neck cannot make its levels."""
        levels: tuple[int, ...] = ()
        if (given := self.of(network.backbone).levels) is not None:
            levels = given(network.backbone, ())
        if network.neck is None:
            return levels[-1:]
        if (given := self.of(network.neck).levels) is not None:
            levels = given(network.neck, levels)
        return levels

    @staticmethod
    def _parts(network: NetworkSpec) -> list[tuple[Slot, ModuleSpec | None]]:
        return [(slot, network.part(slot)) for slot in SLOTS]


@cache
def catalogue() -> Catalogue:
    """Every module known to this installation: ours and those of installed packages."""
    from detsearch.arch.modules import MODULES  # the modules need Descriptor from here

    found: list[Descriptor] = list(MODULES)
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        found.extend(_load(point))
    return Catalogue(found)


def _load(point: EntryPoint) -> list[Descriptor]:
    """The descriptors behind an entry point; UserError that names the package if there are none."""
    package = point.dist.name if point.dist is not None else "unknown"
    where = f"entry point {point.name!r} ({point.value}) of package {package}"
    hint = f"mend or uninstall {package}"
    try:
        loaded = point.load()
    except Exception as error:  # other people's code: whatever it raises, the user must learn whose it is
        raise UserError(where, "importable modules", f"{type(error).__name__}: {error}", hint) from error
    descriptors = [loaded] if isinstance(loaded, Descriptor) else loaded
    if not isinstance(descriptors, (list, tuple)) or not all(isinstance(d, Descriptor) for d in descriptors):
        raise UserError(where, "a Descriptor or a list of them", _kind(descriptors), hint)
    return list(descriptors)


def _kind(found: object) -> str:
    """What was found, by its type: its text may be anything."""
    if isinstance(found, (list, tuple)):
        return f"a {type(found).__name__} of {', '.join(sorted({type(item).__name__ for item in found}))}"
    return type(found).__name__
