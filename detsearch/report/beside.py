"""A detector of the front beside a known one: which two, the command that draws what they find, and some drawings."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from detsearch.data.loader import eval_loader
from detsearch.errors import StudyError
from detsearch.evaluation.predict import ImagePrediction, predict
from detsearch.report.drawing import Answer, draw_answers
from detsearch.report.view import Beside
from detsearch.runs.data import load_split
from detsearch.runs.device import resolve_device
from detsearch.runs.settings import DataSettings
from detsearch.runtime.eager import EagerRuntime
from detsearch.search.ledger import StudyRecord
from detsearch.search.pareto import front, improvements, matrix, measured, reference_point
from detsearch.search.trial import Trial
from detsearch.training.checkpoint import load_detector
from detsearch.training.loop import CHECKPOINT

THRESHOLD: Final = 0.5
"""Least score of a box that is drawn, as in SM-NAS."""
WIDEST: Final = 1280
"""Pixels of a drawing in a report; a wider one is reduced."""
PICTURES: Final = 6
"""As many as the command that shows them asks for."""


def beside_known(
    study: StudyRecord,
    known: Mapping[int, str],
    parts: Iterable[frozenset[int]],
    data: DataSettings,
    pictures: int = 0,
) -> Beside | None:
    """The detector of the front that alone dominates most and is none of the `known` ones (trial number -> name),
    beside a known one: of those in the same of `parts` (numbers of trials), if there are any, or else of all, the
    first. With so many `pictures` of the validation split, evenly spaced.

    None, or StudyError where pictures are asked for, unless there are both and their checkpoints.
    """
    found = _pair(study, known, list(parts))
    if found is None:
        if pictures:
            expected = "a detector of the front and a known one (search.start, or a baseline), with checkpoints"
            raise StudyError(f"{study.folder} --beside", expected, "none")
        return None
    ours, other = found
    names = (f"trial {ours.number}", f"trial {other.number}, {known[other.number]}")
    files = tuple(_checkpoint(study.folder, trial) for trial in found)
    first, second, out, folder = map(shlex.quote, map(str, (*files, f"{study.folder}-beside", study.folder)))
    commands = {
        "Draw both": f"detsearch predict {first} IMAGES --beside {second} --threshold {THRESHOLD:g} --out {out}",
        "Show images here": f"detsearch report {folder} --beside {pictures or PICTURES}",
    }
    drawn = _drawings(found, names, files, data, pictures) if pictures else ()
    return Beside(names=names, threshold=THRESHOLD, commands=commands, split=data.val, pictures=tuple(drawn))


def _pair(study: StudyRecord, known: Mapping[int, str], parts: list[frozenset[int]]) -> tuple[Trial, Trial] | None:
    best = front(study.trials, study.objectives)
    if not best:
        return None
    points = matrix(best, study.objectives)
    alone = improvements(points, points[:0], reference_point(points).tolist())
    ranked = (best[number] for number in np.argsort(-alone, kind="stable"))
    ours = next((t for t in ranked if t.number not in known and _checkpoint(study.folder, t).exists()), None)
    if ours is None:
        return None
    others = [t for t in measured(study.trials, study.objectives) if t.number in known]
    others = [t for t in others if _checkpoint(study.folder, t).exists()]
    near = [t for t in others if any({t.number, ours.number} <= part for part in parts)]
    return (ours, (near or others)[0]) if others else None


def _checkpoint(folder: Path, trial: Trial) -> Path:
    return folder / "trials" / f"{trial.number:04d}" / CHECKPOINT


def _drawings(
    trials: tuple[Trial, Trial], names: tuple[str, str], files: tuple[Path, ...], data: DataSettings, count: int
) -> list[tuple[str, str]]:
    """The name of each image and its drawing, as the address of inline data."""
    dataset = load_split(data.file, data.val)
    places = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    some = replace(dataset, records=tuple(dataset.records[place] for place in places))
    answers: list[dict[int, ImagePrediction]] = []
    for trial, file in zip(trials, files, strict=True):
        detector, _ = load_detector(file)
        runtime = EagerRuntime(detector, resolve_device("auto"))
        found = predict(runtime, eval_loader(some, trial.spec.input, batch=1, workers=0))
        answers.append({prediction.image_id: prediction for prediction in found})
    drawings = []
    for record in some.records:
        told = [Answer(name, by[record.image_id], some.classes) for name, by in zip(names, answers, strict=True)]
        drawings.append((record.path.name, _inline(draw_answers(record.load(), told, threshold=THRESHOLD))))
    return drawings


def _inline(image: Image.Image) -> str:
    image.thumbnail((WIDEST, WIDEST))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
