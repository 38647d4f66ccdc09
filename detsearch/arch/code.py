"""Architectures as text; the only place that reads or writes it.

    detector = network "@" WIDTH "x" HEIGHT
    network  = module {"/" module} ["/" norm]           backbone, neck, proposals, head; empty slots are left out
    module   = word ["(" field "=" value {"," field "=" value} ")"]
    word     = a token or a name of the catalogue, or an atom that stands for its module (a block code)
    value    = number | true | false | word | integers joined by "-" | atom | module

The text is canonical: fields at their default are left out, ``parse(format(spec)) == spec``, and equal specs have equal
text. Whitespace between parts is ignored when reading.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import types
from dataclasses import MISSING, fields
from typing import Any, Final, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from detsearch.arch.catalogue import Catalogue, Descriptor, catalogue
from detsearch.arch.spec import NORMS, SLOTS, DetectorSpec, ModuleSpec, NetworkSpec, Slot
from detsearch.errors import SpecError
from detsearch.types import InputSize

MAX_LENGTH: Final = 4096
"""Longer text is refused unread."""
MAX_NESTING: Final = 8


def parse_detector(text: str, known: Catalogue | None = None) -> DetectorSpec:
    """Read ``network@WxH``; SpecError with position and suggestion."""
    network, at, size = text.rpartition("@")
    if not at:
        raise SpecError("detector", "network@WxH, such as resnet18/fpn/retinanet@512x512", _short(text))
    known = known or catalogue()
    spec = parse_network(network, known).at(InputSize.parse(size))
    known.check_input(spec)
    return spec


def parse_network(text: str, known: Catalogue | None = None) -> NetworkSpec:
    """Read a network and check that its modules can stand beside each other; SpecError otherwise."""
    known = known or catalogue()
    reader = _Reader(text, known)
    parts: dict[str, Any] = {}
    last = -1
    while True:
        start = reader.position
        norm = reader.norm()
        if norm is not None:
            parts["norm"] = norm
        else:
            descriptor, module = reader.module()
            if descriptor.slot == "inner":
                raise reader.error(start, "a part of a detector", f"{descriptor.token}, which stands inside another")
            slot = SLOTS.index(descriptor.slot)
            if slot <= last:
                raise reader.error(start, f"parts in the order {', '.join(SLOTS)}", f"{descriptor.slot} here")
            last = slot
            parts[descriptor.slot] = module
        if reader.ended():
            break
        if norm is not None:
            raise reader.error(reader.position, "the end after the norm")
        reader.expect("/")
    for slot_name in ("backbone", "head"):
        if slot_name not in parts:
            raise SpecError(f"network {_short(text)}", f"a {slot_name}", "none")
    network = NetworkSpec(**parts)
    known.check(network)
    return network


def parse_module(text: str, slot: Slot | None = None, known: Catalogue | None = None) -> ModuleSpec:
    """Read one module; `slot`, if given, is where it must be able to stand."""
    reader = _Reader(text, known or catalogue())
    descriptor, module = reader.module()
    if not reader.ended():
        raise reader.error(reader.position, "the end of the module")
    if slot is not None and descriptor.slot != slot:
        raise SpecError(slot, f"a {slot}", f"{descriptor.token}, which is a {descriptor.slot}")
    return module


def format_detector(spec: DetectorSpec, known: Catalogue | None = None) -> str:
    """The canonical text of a detector."""
    return f"{format_network(spec.network, known)}@{spec.input}"


def format_network(network: NetworkSpec, known: Catalogue | None = None) -> str:
    """The canonical text of a network."""
    return _format_network(network, known or catalogue(), short=True)


def format_module(module: ModuleSpec, known: Catalogue | None = None) -> str:
    """The canonical text of a module: of its token, atom or names, the one that leaves the fewest fields to write."""
    return _format_module(module, known or catalogue(), short=True)


def digest(spec: DetectorSpec | NetworkSpec, known: Catalogue | None = None) -> str:
    """12 hexadecimal characters that name a spec's folder. They do not depend on names such as ``resnet50``, so that
    adding one later keeps old folders valid."""
    known = known or catalogue()
    if isinstance(spec, DetectorSpec):
        text = f"{_format_network(spec.network, known, short=False)}@{spec.input}"
    else:
        text = _format_network(spec, known, short=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _format_network(network: NetworkSpec, known: Catalogue, *, short: bool) -> str:
    parts = [_format_module(part, known, short=short) for slot in SLOTS if (part := network.part(slot)) is not None]
    return "/".join(parts if network.norm == NORMS[0] else [*parts, network.norm])


def _format_module(module: ModuleSpec, known: Catalogue, *, short: bool) -> str:
    descriptor = known.of(module)
    values = {f.name: getattr(module, f.name) for f in fields(module)}
    defaults = {f.name: f.default for f in fields(module) if f.default is not MISSING}
    if descriptor.atom is None:
        candidates = [(descriptor.token, defaults)]
    else:
        atom = descriptor.atom[0]
        candidates = [(str(values[atom]), {**defaults, atom: values[atom]})]
    if short:
        candidates += [
            (name, {f.name: getattr(spec, f.name) for f in fields(spec)}) for name, spec in descriptor.names.items()
        ]
    word, base = min(candidates, key=lambda c: sum(name not in c[1] or c[1][name] != v for name, v in values.items()))
    written = [
        f"{name}={_format_value(value, known, short=short)}"
        for name, value in values.items()
        if name not in base or base[name] != value
    ]
    return f"{word}({','.join(written)})" if written else word


def _format_value(value: Any, known: Catalogue, *, short: bool) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    if isinstance(value, ModuleSpec):
        return _format_module(value, known, short=short)
    return str(value)


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


class _Value(NamedTuple):
    """What a field accepts, from its annotation."""

    kind: Any
    optional: bool


def _accepted(annotation: Any) -> _Value:
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return _Value(kinds[0], len(kinds) < len(get_args(annotation)))
    return _Value(annotation, False)


class _Reader:
    """A position in a text."""

    def __init__(self, text: str, known: Catalogue) -> None:
        if len(text) > MAX_LENGTH:
            raise SpecError("code", f"at most {MAX_LENGTH} characters", str(len(text)))
        self.text, self.known, self.position, self.nesting = text, known, 0, 0
        self._skip()

    def error(self, at: int, expected: str, received: str | None = None, hint: str | None = None) -> SpecError:
        found = _short(self.text[at : at + 24]) if at < len(self.text) else "the end"
        return SpecError(f"code at character {at + 1}", expected, received or found, hint)

    def ended(self) -> bool:
        return self.position >= len(self.text)

    def expect(self, mark: str) -> None:
        if not self.text.startswith(mark, self.position):
            raise self.error(self.position, repr(mark))
        self.position += 1
        self._skip()

    def norm(self) -> Any:
        """The norm at this position, if there is one and nothing of the network follows it in the same word."""
        start = self.position
        word = self._word()
        if word in NORMS:
            return word
        self.position = start
        return None

    def module(self) -> tuple[Descriptor, ModuleSpec]:
        start = self.position
        word = self._word()
        descriptor, values = self._look_up(word, start)
        if self._at("("):
            self.nesting += 1
            if self.nesting > MAX_NESTING:
                raise self.error(start, f"at most {MAX_NESTING} modules inside each other")
            self.expect("(")
            while True:
                self._field(descriptor, values)
                if not self._at(","):
                    break
                self.expect(",")
            self.expect(")")
            self.nesting -= 1
        missing = [f.name for f in fields(descriptor.spec) if f.default is MISSING and f.name not in values]
        if missing:
            raise self.error(start, f"field {missing[0]!r} of {descriptor.token}", f"{word} without it")
        return descriptor, descriptor.spec(**values)

    def _look_up(self, word: str, start: int) -> tuple[Descriptor, dict[str, Any]]:
        """What a word stands for: the kind of module and the fields that are already known."""
        if (descriptor := self.known.get(word)) is not None:
            return descriptor, {}
        if (named := self.known.named(word)) is not None:
            descriptor, spec = named
            return descriptor, {f.name: getattr(spec, f.name) for f in fields(spec)}
        for descriptor in self.known:
            if descriptor.atom is not None and re.fullmatch(descriptor.atom[1], word):
                kind = get_type_hints(descriptor.spec)[descriptor.atom[0]]
                return descriptor, {descriptor.atom[0]: kind.parse(word)}
        near = difflib.get_close_matches(word, self.known.words(), 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(self.known.words()))}"
        raise self.error(start, "a module", repr(word) if word else None, hint)

    def _field(self, descriptor: Descriptor, values: dict[str, Any]) -> None:
        start = self.position
        name = self._word()
        hints = get_type_hints(descriptor.spec)
        names = [f.name for f in fields(descriptor.spec)]
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else None
            raise self.error(start, f"a field of {descriptor.token} ({', '.join(names)})", repr(name), hint)
        self.expect("=")
        values[name] = self._value(f"{descriptor.token} field {name!r}", _accepted(hints[name]))

    def _value(self, what: str, accepted: _Value) -> Any:
        start, kind = self.position, accepted.kind
        if isinstance(kind, type) and issubclass(kind, ModuleSpec):
            if accepted.optional and self.text[start : start + 4] == "none":
                self._raw()
                return None
            descriptor, module = self.module()
            if not isinstance(module, kind):
                raise self.error(start, f"a {kind.__name__} for {what}", descriptor.token)
            return module
        raw = self._raw()
        if accepted.optional and raw == "none":
            return None
        try:
            return _convert(raw, kind)
        except SpecError:
            raise
        except ValueError:
            raise self.error(start, f"{_describe(kind)} for {what}", repr(raw)) from None

    def _raw(self) -> str:
        """The text up to the comma or bracket that ends a value; brackets inside it are kept in pairs."""
        depth, end = 0, self.position
        while end < len(self.text):
            char = self.text[end]
            if depth == 0 and char in ",)":
                break
            depth += (char == "(") - (char == ")")
            end += 1
        raw = self.text[self.position : end].strip()
        self.position = end
        return raw

    def _word(self) -> str:
        match = re.compile(r"[A-Za-z0-9_.\-]*").match(self.text, self.position)
        assert match is not None
        self.position = match.end()
        self._skip()
        return match[0]

    def _at(self, mark: str) -> bool:
        return self.text.startswith(mark, self.position)

    def _skip(self) -> None:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1


def _convert(raw: str, kind: Any) -> Any:
    """The value of a text for an annotation; ValueError if it is none."""
    if kind is bool:
        return {"true": True, "false": False}[raw] if raw in ("true", "false") else _refuse()
    if kind is int:
        return int(raw) if re.fullmatch(r"-?[0-9]{1,9}", raw) else _refuse()
    if kind is float:
        return float(raw) if re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,17})?(e-?[0-9]{1,2})?", raw) else _refuse()
    if kind is str:
        return raw if re.fullmatch(r"[A-Za-z0-9_.\-]+", raw) else _refuse()
    if get_origin(kind) is Literal:
        return raw if raw in get_args(kind) else _refuse()
    if get_origin(kind) is tuple:
        return (
            tuple(int(part) for part in raw.split("-")) if re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})*", raw) else _refuse()
        )
    return kind.parse(raw)


def _refuse() -> Any:
    raise ValueError


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return "integers joined by '-'"
    plain = {bool: "true or false", int: "an integer", float: "a number", str: "a word"}
    return plain.get(kind) or str(kind.__name__)
