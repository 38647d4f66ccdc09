"""Reading and writing recipes: YAML file, then the command line's settings, then checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from detsearch.errors import RecipeError
from detsearch.files import write_text
from detsearch.yamlfile import UNKNOWN, explain, faults, field_of, read_value, read_yaml

R = TypeVar("R", bound=BaseModel)

MAX_DEPTH: Final = 16
"""Levels of a field that is set; what walks a recipe calls itself at each, and no recipe has more than a few."""

ARGUMENTS: Final = {
    "detector": "DETECTOR",
    "backbone": "BACKBONE",
    "data": "--data",
    "data.file": "--data",
    "data.root": "--data",
}
"""What gives, on the command line, the fields that have no default."""


def load_recipe(
    kind: type[R], path: Path | None, settings: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> R:
    """A recipe of `kind` from a file, overridden as `override` says."""
    raw = read_yaml(path, RecipeError) if path is not None else {}
    return override(kind, raw, settings, options, "recipe" if path is None else str(path))


def override(
    kind: type[R],
    raw: dict[str, Any],
    settings: Sequence[str],
    options: Mapping[str, Any] | None = None,
    where: str = "recipe",
) -> R:
    """Check a recipe's values `raw` after changing them by `settings` (``section.field=value``, the value as YAML) and
    `options` (dotted field -> value; None is left out). RecipeError names the field, and `where` it came from: there,
    ``--set``, or the command line's options."""
    given: dict[str, str] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise RecipeError("--set", "section.field=value", repr(text))
        name = name.strip()
        put(raw, name, read_value(value, f"--set {name}", RecipeError))
        given[name] = "--set"
    for name, value in (options or {}).items():
        if value is not None:
            put(raw, name, value)
            given[name] = "command line"
    try:
        return kind.model_validate(raw)
    except ValidationError as problem:
        found = faults(problem)
        missing = [field_of(fault) for fault in found if fault["type"] == "missing"]
        if missing and set(missing) <= set(ARGUMENTS) and found[0]["type"] != UNKNOWN:
            missing = [field for field in ARGUMENTS if field in missing]
            hint = f"give {' and '.join(ARGUMENTS[field] for field in missing)}, or a --recipe that says so"
            raise RecipeError(where, " and ".join(missing), "nothing", hint) from None
        raise explain(problem, _origin(field_of(found[0]), given, where), RecipeError, kind) from None


def write_recipe(recipe: BaseModel, path: Path) -> None:
    """Write what was really used, defaults included, so that the run can be repeated from this file."""
    write_text(path, to_yaml(recipe))


def to_yaml(recipe: BaseModel) -> str:
    """A recipe as YAML, in the order of its fields."""
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110))


def _origin(field: str, given: Mapping[str, str], where: str) -> str:
    """Where the value of a faulty field was written."""
    for name, source in given.items():
        if f"{field}.".startswith(f"{name}."):
            return source
    if any(name.startswith(f"{field}.") for name in given):  # a section whose fields contradict each other
        return f"{where}, {' and '.join(sorted(set(given.values())))}"
    return where


def put(raw: dict[str, Any], name: str, value: Any) -> None:
    """Set a dotted field in nested mappings; RecipeError where there is something else on the way."""
    *sections, last = name.split(".")
    if len(sections) >= MAX_DEPTH:
        raise RecipeError(f"setting {name[:20]}...", f"a field of at most {MAX_DEPTH} levels", str(len(sections) + 1))
    for section in sections:
        inner = raw.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"setting {name}", f"{section} to be a section", type(inner).__name__)
        raw = inner
    raw[last] = value


def builtin(name: str) -> Path:
    """A YAML file that comes with the package: a recipe or a data file."""
    return Path(__file__).parent / "builtin" / f"{name}.yaml"
