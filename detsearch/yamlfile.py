"""YAML files that users write: read safely, and say in one line what is wrong with one."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from detsearch.errors import UserError

MAX_BYTES = 1 << 20
UNKNOWN: Final = "extra_forbidden"
"""What pydantic calls a key that a model does not have."""


class Section(BaseModel):
    """Base of what may stand in such a file: no unknown keys, no infinities, and ``true`` is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _bools_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts with bools and so does pydantic; its strict mode would also refuse 1e-3, a string in YAML 1.1.
        found = value if isinstance(value, list | tuple) else [value]
        wanted = None if info.field_name is None else cls.model_fields[info.field_name].annotation
        if wanted is not bool and any(isinstance(item, bool) for item in found):
            raise ValueError("a value other than true and false")
        return value


class _Loader(yaml.SafeLoader):
    """Plain YAML without the two traps: aliases, which can unfold a small file without bound, and repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, error: type[UserError]) -> dict[str, Any]:
    """The mapping in the YAML file `path`; raises `error` where there is none."""
    try:
        with path.open("rb") as file:  # the size that the system states is 0 for devices and pipes
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as problem:  # ValueError: no file can have such a name
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise error(str(path), "a readable YAML file", reason or type(problem).__name__) from problem
    if len(content) > MAX_BYTES:
        raise error(str(path), f"a YAML file of at most {MAX_BYTES} bytes", "more")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(str(path), "UTF-8 text", f"byte {problem.start} that is not") from problem
    raw = read_value(text, str(path), error)
    if not isinstance(raw, dict):
        raise error(str(path), "YAML with 'key: value' lines", "nothing" if raw is None else f"a {type(raw).__name__}")
    return raw


def read_value(text: str, where: str, error: type[UserError]) -> Any:
    """The value that `text` is in YAML; raises `error`, naming `where`, if it is none."""
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError as problem:
        raise error(where, "YAML nested a few levels deep", "a far deeper one") from problem
    # PyYAML's constructors let through what a wrong date or tag (2001-99-99, !!int "", !!bool x) makes them raise.
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as problem:
        raise error(where, "YAML", str(problem)) from problem


def faults(problem: ValidationError) -> list[ErrorDetails]:
    """Pydantic's findings, unknown keys first: a key that is missing may be there under a wrong name."""
    found = problem.errors(include_url=False)
    return sorted(found, key=lambda fault: fault["type"] != UNKNOWN)


def field_of(fault: ErrorDetails) -> str:
    """The dotted field that a finding is about."""
    return ".".join(str(part) for part in fault["loc"])


def explain(problem: ValidationError, where: str, error: type[UserError], kind: type[BaseModel]) -> UserError:
    """The first of the `faults` of what should have been a `kind` as one line: file, dotted field, expected, received,
    and for an unknown key the nearest known one."""
    found = faults(problem)
    first = found[0]
    field = field_of(first)
    got: str | None
    hints = []
    if first["type"] == UNKNOWN:
        unknown = str(first["loc"][-1])
        expected, got = "no such key", repr(unknown)
        if near := difflib.get_close_matches(unknown, _keys(kind, first["loc"][:-1]), 1):
            hints.append(f"did you mean {near[0]!r}?")
            missing = (*first["loc"][:-1], near[0])
            found = [fault for fault in found if (fault["type"], fault["loc"]) != ("missing", missing)]
    elif first["type"] == "missing":
        expected, got = "this key", "nothing"
    else:
        message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        # What a section finds about its fields together names them; the whole of it would say no more.
        of_section = first["type"] == "value_error" and _keys(kind, first["loc"])
        expected, got = message, None if of_section else _shown(first["input"])
    if len(found) > 1:
        hints.append(f"and {len(found) - 1} more")
    return error(f"{where}: {field}" if field else where, expected, got, " ".join(hints) or None)


def _shown(value: object) -> str:
    """How a value from outside is shown in a message."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits, which YAML reads where they are hexadecimal
        return f"a {type(value).__name__} of more digits than can be shown"
    return text if len(text) <= 80 else text[:77] + "..."


def _keys(kind: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys that are known at a place below `kind`; those of all that may stand there, where that is several."""
    candidates: list[Any] = [kind]
    for part in place:
        sections = [section for candidate in candidates for section in _sections(candidate)]
        inner = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
        candidates = inner or candidates  # else it is a mapping's key, a list's index or a union's tag
    return [name for candidate in candidates for section in _sections(candidate) for name in section.model_fields]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The models that occur in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections(argument)]
