"""YAML files that users write: read safely, and say in one line what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from detsearch.errors import UserError

MAX_BYTES = 1 << 20


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
        if path.stat().st_size > MAX_BYTES:
            raise error(str(path), f"a YAML file of at most {MAX_BYTES} bytes", f"{path.stat().st_size} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise error(str(path), "a readable YAML file", problem.strerror or type(problem).__name__) from problem
    except UnicodeDecodeError as problem:
        raise error(str(path), "UTF-8 text", f"byte {problem.start} that is not") from problem
    raw = read_value(text, str(path), error)
    if not isinstance(raw, dict):
        raise error(str(path), "YAML with 'key: value' lines", type(raw).__name__)
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


def explain(problem: ValidationError, where: str, error: type[UserError]) -> UserError:
    """The first of pydantic's findings as one line: file, dotted field, expected, received."""
    found = problem.errors(include_url=False)
    first = found[0]
    field = ".".join(str(part) for part in first["loc"])
    received = repr(first["input"])
    received = received if len(received) <= 80 else received[:77] + "..."
    if first["type"] == "extra_forbidden":
        expected, got = "no such key", f"{field.rpartition('.')[2]!r}"
    elif first["type"] == "missing":
        expected, got = "this key", "nothing"
    else:
        message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        expected, got = message, received
    hint = f"and {len(found) - 1} more" if len(found) > 1 else None
    return error(f"{where}: {field}" if field else where, expected, got, hint)
