"""Results of the parts of a long benchmark, each in a file of its own, so that the same command goes on where it was
stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from provenance import provenance

from detsearch.errors import StudyError
from detsearch.files import write_json


def kept(
    path: Path, settings: Mapping[str, Any], make: Callable[[], Mapping[str, Any]], *, device: str = "cpu"
) -> dict[str, Any]:
    """What `make` gives, with the `settings` that it depends on, date, device and commit: from the file `path` if it
    was made before, else made now and written there. StudyError where the file is of other settings, or damaged."""
    asked = json.loads(json.dumps(settings))  # as a file holds them
    if not path.exists():
        write_json(path, {"settings": asked, **provenance(device), **make()})
    hint = "choose another --runs folder, or remove the file"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        made_with = dict(found["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(str(path), "a result of this benchmark", "another or a damaged file", hint) from error
    for name in dict.fromkeys([*asked, *made_with]):
        if asked.get(name) != made_with.get(name):
            raise StudyError(
                str(path), f"a result with {name} {asked.get(name)}", f"one with {made_with.get(name)}", hint
            )
    return found
