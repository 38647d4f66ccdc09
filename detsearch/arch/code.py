"""Architectures as text; the only place that reads or writes it.

    detector = network "@" WIDTH "x" HEIGHT
    network  = module {"/" module} ["/" norm]           backbone, neck, proposals, head; empty slots are left out
    module   = word ["(" field "=" value {"," field "=" value} ")"]
    word     = a token or a name of the catalogue, or an atom that stands for its module (a block code)
    value    = number | true | false | none | word | integers joined by "-" | atom | module

An atom may hold any marks; as a value it ends at the first comma or closing bracket outside its own brackets.

The text is canonical: fields at their default are left out, ``parse(format(spec)) == spec``, and equal specs have equal
text. Whitespace between parts is ignored when reading.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, Final, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from detsearch.arch.catalogue import ABSENT, WORD, Catalogue, Descriptor, catalogue
from detsearch.arch.spec import NORMS, SLOTS, ClassifierSpec, DetectorSpec, ModuleSpec, NetworkSpec, Slot
from detsearch.errors import DetsearchError, SpecError
from detsearch.types import InputSize

MAX_LENGTH: Final = 4096
"""Longer text is refused unread."""
MAX_NESTING: Final = 8
CLASSIFIER: Final = "classifier"
"""What stands where a detector has its head, in the name of a classifier."""


def parse_detector(text: str, known: Catalogue | None = None) -> DetectorSpec:
    """Read ``network@WxH``; SpecError with position and suggestion."""
    _check_length(text)
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
        raise SpecError(slot, f"a {slot} module", f"{descriptor.token}, which is a {descriptor.slot} module")
    return module


def format_detector(spec: DetectorSpec, known: Catalogue | None = None) -> str:
    """The canonical text of a detector."""
    return f"{format_network(spec.network, known)}@{spec.input}"


def format_network(network: NetworkSpec, known: Catalogue | None = None) -> str:
    """The canonical text of a network."""
    return _format_network(network, known or catalogue())


def format_subject(spec: DetectorSpec | ClassifierSpec) -> str:
    """The text by which checkpoints know what was trained, without its input size: a detector's network, or
    ``backbone/classifier`` and a norm other than bn, which is read as no detector."""
    if isinstance(spec, DetectorSpec):
        return format_network(spec.network)
    parts = [format_module(spec.backbone), CLASSIFIER]
    return "/".join(parts if spec.norm == NORMS[0] else [*parts, spec.norm])


def format_module(module: ModuleSpec, known: Catalogue | None = None) -> str:
    """The canonical text of a module: of its token, atom or names, the one that leaves the fewest fields to write."""
    return _format_module(module, known or catalogue())


class FieldText(NamedTuple):
    """How a module's field is written: what it accepts, in words, and its default as text, None where it has none."""

    name: str
    accepts: str
    default: str | None


def module_fields(spec: type[ModuleSpec], known: Catalogue | None = None) -> list[FieldText]:
    """The fields of a kind of module, in the order in which they are written."""
    accepted = _accepted(spec)
    found = []
    for field in fields(spec):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is MISSING:
            text = None
        elif isinstance(default, ModuleSpec):
            text = format_module(default, known)
        else:
            text = _format_value(default, accepted[field.name], field.name)
        found.append(FieldText(field.name, _describe(accepted[field.name]), text))
    return found


def _format_network(network: NetworkSpec, known: Catalogue) -> str:
    parts = [_format_module(part, known) for slot in SLOTS if (part := network.part(slot)) is not None]
    return "/".join(parts if network.norm == NORMS[0] else [*parts, network.norm])


def _format_module(module: ModuleSpec, known: Catalogue) -> str:
    descriptor = known.of(module)
    values = {f.name: getattr(module, f.name) for f in fields(module)}
    defaults = {f.name: f.default for f in fields(module) if f.default is not MISSING}
    candidates = [(descriptor.token, defaults)]
    if descriptor.atom is not None:
        atom, pattern = descriptor.atom
        text = _format_value(values[atom], _accepted(type(module))[atom], f"{descriptor.token} field {atom!r}")
        if re.fullmatch(pattern, text):
            candidates = [(text, {**defaults, atom: values[atom]})]
    candidates += [
        (name, {f.name: getattr(spec, f.name) for f in fields(spec)}) for name, spec in descriptor.names.items()
    ]
    word, base = min(candidates, key=lambda c: sum(name not in c[1] or c[1][name] != v for name, v in values.items()))
    written = []
    for name, value in values.items():
        if name in base and base[name] == value:
            continue
        if isinstance(value, ModuleSpec):
            text = _format_module(value, known)
        else:
            text = _format_value(value, _accepted(type(module))[name], f"{descriptor.token} field {name!r}")
        written.append(f"{name}={text}")
    return f"{word}({','.join(written)})" if written else word


def _format_value(value: Any, accepted: _Value, what: str) -> str:
    """The text of a value that is no module; SpecError if it has none that reads back as the same value (not a number,
    a word with spaces, an empty tuple, an atom with open brackets)."""
    if value is None:
        text = ABSENT
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, float):
        text = repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    elif isinstance(value, tuple):
        text = "-".join(map(str, value))
    else:
        text = str(value)
    try:
        if _end_of_value(text, 0) == len(text) and text == text.strip() and _convert(text, accepted) == value:
            return text
    except ValueError:
        pass
    raise SpecError(what, "a value that can be written as text", repr(value))


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _check_length(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise SpecError("code", f"at most {MAX_LENGTH} characters", str(len(text)))


class _Value(NamedTuple):
    """What a field accepts, from its annotation: one kind of value or several kinds of module."""

    kinds: tuple[Any, ...]
    optional: bool

    @property
    def modules(self) -> bool:
        return all(isinstance(kind, type) and issubclass(kind, ModuleSpec) for kind in self.kinds)


def _accepted(spec: type[ModuleSpec]) -> dict[str, _Value]:
    """What every field of a kind of module accepts; DetsearchError for an annotation that has no text form."""
    kind: Any = spec  # mypy takes a class of dataclasses for unhashable
    return _accepted_by_field(kind)


@cache
def _accepted_by_field(spec: type[ModuleSpec]) -> dict[str, _Value]:
    found = {}
    try:
        hints = get_type_hints(spec)
    except NameError as error:
        raise DetsearchError(f"{spec.__module__}.{spec.__name__}: a field's type cannot be resolved: {error}") from None
    for field in fields(spec):
        annotation = hints[field.name]
        union = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
        value = _Value(tuple(kind for kind in union if kind is not type(None)), type(None) in union)
        if not value.modules and not (len(value.kinds) == 1 and _has_text(value.kinds[0])):
            raise DetsearchError(f"{spec.__module__}.{spec.__name__}.{field.name}: {annotation} has no text form")
        found[field.name] = value
    return found


def _has_text(kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return all(item in (int, ...) for item in get_args(kind))
    return kind in (bool, int, float, str) or get_origin(kind) is Literal or hasattr(kind, "parse")


class _Reader:
    """A position in a text."""

    def __init__(self, text: str, known: Catalogue) -> None:
        _check_length(text)
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
            given: dict[str, Any] = {}
            while True:
                name, value = self._field(descriptor, given)
                given[name] = value
                if not self._at(","):
                    break
                self.expect(",")
            self.expect(")")
            self.nesting -= 1
            values |= given
        missing = [f.name for f in fields(descriptor.spec) if f.default is MISSING and f.name not in values]
        if missing:
            raise self.error(start, f"field {missing[0]!r} of {descriptor.token}", f"{word} without it")
        try:
            return descriptor, descriptor.spec(**values)
        except SpecError as error:
            raise self._within(descriptor, start, error) from None

    def _look_up(self, word: str, start: int) -> tuple[Descriptor, dict[str, Any]]:
        """What a word stands for: the kind of module and the fields that are already known."""
        if (descriptor := self.known.get(word)) is not None:
            return descriptor, {}
        if (named := self.known.named(word)) is not None:
            descriptor, spec = named
            return descriptor, {f.name: getattr(spec, f.name) for f in fields(spec)}
        for descriptor in self.known:
            if descriptor.atom is None:
                continue
            field, pattern = descriptor.atom
            if (match := re.compile(pattern).match(self.text, start)) is not None and match.end() >= start + len(word):
                self.position = match.end()
                self._skip()
                accepted = _accepted(descriptor.spec)[field]
                return descriptor, {field: self._converted(match[0], accepted, descriptor, field, start)}
        near = difflib.get_close_matches(word, self.known.words(), 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(self.known.words()))}"
        raise self.error(start, "a module", _short(word) if word else None, hint)

    def _field(self, descriptor: Descriptor, given: dict[str, Any]) -> tuple[str, Any]:
        start = self.position
        name = self._word()
        accepted = _accepted(descriptor.spec)
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted, 1)
            hint = f"did you mean {near[0]}?" if near else None
            raise self.error(start, f"a field of {descriptor.token} ({', '.join(accepted)})", _short(name), hint)
        if name in given:
            raise self.error(start, f"every field of {descriptor.token} once", f"{name!r} again")
        self.expect("=")
        return name, self._value(descriptor, name, accepted[name])

    def _value(self, descriptor: Descriptor, name: str, accepted: _Value) -> Any:
        start = self.position
        if accepted.modules:
            if accepted.optional and self._word() == ABSENT:
                return None
            self.position = start
            found, module = self.module()
            if not isinstance(module, accepted.kinds):
                wanted = " or ".join(kind.__name__ for kind in accepted.kinds)
                raise self.error(start, f"a {wanted} for {descriptor.token} field {name!r}", found.token)
            return module
        self.position = _end_of_value(self.text, start)
        return self._converted(self.text[start : self.position].strip(), accepted, descriptor, name, start)

    def _converted(self, raw: str, accepted: _Value, descriptor: Descriptor, name: str, start: int) -> Any:
        try:
            return _convert(raw, accepted)
        except SpecError as error:
            raise self._within(descriptor, start, error) from None
        except ValueError:
            wanted = f"{_describe(accepted)} for {descriptor.token} field {name!r}"
            raise self.error(start, wanted, _short(raw)) from None

    @staticmethod
    def _within(descriptor: Descriptor, start: int, error: SpecError) -> SpecError:
        """A module's own complaint, with the place of the module in the text."""
        where = f"code at character {start + 1}, {descriptor.token}: {error.where}"
        return SpecError(where, error.expected, error.received, error.hint)

    def _word(self) -> str:
        match = WORD.match(self.text, self.position)
        if match is None:
            return ""
        self.position = match.end()
        self._skip()
        return match[0]

    def _at(self, mark: str) -> bool:
        return self.text.startswith(mark, self.position)

    def _skip(self) -> None:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1


def _end_of_value(text: str, start: int) -> int:
    """Where the comma or bracket stands that ends a value; brackets inside it are kept in pairs."""
    depth, end = 0, start
    while end < len(text) and not (depth == 0 and text[end] in ",)"):
        depth += (text[end] == "(") - (text[end] == ")")
        end += 1
    return end


def _convert(raw: str, accepted: _Value) -> Any:
    """The value of a text; ValueError, or an atom's own SpecError, if it is none."""
    if accepted.optional and raw == ABSENT:
        return None
    (kind,) = accepted.kinds
    if get_origin(kind) is Literal:
        return _choice(raw, {str(value): value for value in get_args(kind)})
    if kind is bool:
        return _choice(raw, {"true": True, "false": False})
    if get_origin(kind) is tuple:
        return tuple(int(part) for part in _matching(r"[0-9]{1,9}(-[0-9]{1,9})*", raw).split("-"))
    if kind is int:
        return int(_matching(r"-?[0-9]{1,18}", raw))
    if kind is float:
        number = float(_matching(r"-?[0-9]{1,18}(\.[0-9]{1,24})?(e[+-]?[0-9]{1,3})?", raw))
        if not math.isfinite(number):
            raise ValueError
        return number
    if kind is str:
        return _matching(WORD.pattern, raw)
    return kind.parse(raw)


def _choice(raw: str, choices: dict[str, Any]) -> Any:
    if raw not in choices:
        raise ValueError
    return choices[raw]


def _matching(pattern: str, raw: str) -> str:
    if re.fullmatch(pattern, raw) is None:
        raise ValueError
    return raw


def _describe(accepted: _Value) -> str:
    kind = accepted.kinds[0]
    if accepted.modules:
        wanted = " or ".join(f"a {kind.__name__}" for kind in accepted.kinds)
    elif get_origin(kind) is Literal:
        wanted = " or ".join(map(str, get_args(kind)))
    elif get_origin(kind) is tuple:
        wanted = "integers joined by '-'"
    else:
        plain = {bool: "true or false", int: "an integer", float: "a number", str: "a word"}
        wanted = plain.get(kind) or f"a {kind.__name__}"
    return f"{wanted} or {ABSENT}" if accepted.optional else wanted
