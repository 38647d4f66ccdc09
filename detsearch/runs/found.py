"""Detectors that were found, as the arms of a comparison name them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from detsearch.errors import RecipeError, UserError
from detsearch.runs.search import code_of_trial
from detsearch.search.ledger import read_study
from detsearch.search.pareto import front, matrix, spread
from detsearch.training.checkpoint import read_checkpoint

CHECKPOINT: Final = "checkpoint"
STUDY: Final = "study"
TRIAL: Final = "trial"
FRONT: Final = "front"
_ALL: Final = (CHECKPOINT, STUDY, TRIAL, FRONT)


@contextmanager
def of_arm(name: str) -> Iterator[None]:
    """What is wrong here is wrong in this arm, and the message says so."""
    try:
        yield
    except UserError as error:
        raise error.within(f"arm {name}") from None


def arm_fields(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an arm, with what was found in place of where: the `detector` of a study's trial or of its front;
    of a checkpoint, which is also the `weights`, unless the arm says others.

    RecipeError for fields that cannot stand together; StudyError and CheckpointError for what is not there: all name
    the arm.
    """
    found = {field: value for field, value in fields.items() if field not in _ALL}
    named = {field: fields[field] for field in _ALL if field in fields}
    if not named:
        return found
    where = f"arm {name}"
    whole = {(CHECKPOINT,), (STUDY, TRIAL), (STUDY, FRONT)}
    if tuple(named) not in whole or "detector" in found:
        given = ", ".join([*(["detector"] if "detector" in found else []), *named])
        raise RecipeError(where, "detector; or checkpoint; or study with trial or front", given)
    for field, value in named.items():
        kind = str if field in (CHECKPOINT, STUDY) else int
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RecipeError(f"{where}, {field}", "a path" if kind is str else "a number", repr(value))
    with of_arm(name):
        if CHECKPOINT in named:
            meta = read_checkpoint(Path(named[CHECKPOINT])).meta
            return {"detector": f"{meta.network}@{meta.input}", "weights": named[CHECKPOINT], **found}
        study = Path(named[STUDY])
        code = code_of_trial(study, named[TRIAL]) if TRIAL in named else _of_front(study, named[FRONT])
    return {"detector": code, **found}


def _of_front(folder: Path, place: int) -> str:
    """The detector that is chosen `place`-th of a front, as `search modules` would take structures."""
    study = read_study(folder)
    best = front(study.trials, study.objectives)
    if not 1 <= place <= len(best):
        wanted = f"a place from 1 to {len(best)}" if best else "a study with a complete trial"
        raise RecipeError(FRONT, wanted, str(place))
    return best[spread(matrix(best, study.objectives), place)[-1]].code
