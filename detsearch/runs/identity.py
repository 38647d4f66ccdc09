"""What makes a run this run and no other, so that it can be repeated and gone on with."""

from __future__ import annotations

import hashlib
import os
from typing import Any, TypeVar

from detsearch.arch.code import format_detector
from detsearch.arch.presets import resolve
from detsearch.arch.spaces.section import ALONE, read_space
from detsearch.data.dataset import Dataset
from detsearch.data.masks import to_coco
from detsearch.nn.backbones.weights import IMAGENET
from detsearch.runs.data import BUILTIN
from detsearch.runs.settings import HeadSearchRecipe, Run, SearchRecipe, TrainRecipe

R = TypeVar("R", bound=Run)


def located(run: R) -> R:
    """The same recipe, to be read from any working directory: files by their whole path, detectors as their codes."""
    file = run.data.file if run.data.file in BUILTIN else os.path.abspath(run.data.file)
    changed: dict[str, Any] = {"data": run.data.model_copy(update={"file": file})}
    if run.weights not in ("none", IMAGENET):
        changed["weights"] = os.path.abspath(run.weights)
    if isinstance(run, TrainRecipe):
        changed |= {"detector": format_detector(run.spec()), "norm": None}
    if isinstance(run, HeadSearchRecipe):
        changed["detector"] = format_detector(resolve(run.detector))
    if isinstance(run, SearchRecipe) and not ALONE.keys().isdisjoint(run.space):
        changed["space"] = read_space(run.space).to_choices()
    return run.model_copy(update=changed)


def deciding(run: Run) -> dict[str, Any]:
    """The fields on which weights and their figures depend, as plain values; where the data file lies is none."""
    same = located(run).model_dump(mode="json", include={"augmentation", "weights", "seed", "detector"})
    same["data"] = {"train": run.data.train, "val": run.data.val}
    same["training"] = run.training.deciding()
    same["evaluation"] = {"voc": run.evaluation.voc}
    return same


def summary(dataset: Dataset) -> dict[str, Any]:
    """What a split holds, with a digest of its annotations."""
    digest = hashlib.sha256()
    for record in dataset.records:
        digest.update(f"{record.image_id} {record.width} {record.height}".encode())
        for values in (record.boxes, record.labels, record.area, record.crowd, record.difficult):
            digest.update(values.tobytes())
        for outline in record.segmentations or ():
            digest.update(b"-" if outline is None else repr(to_coco(outline)).encode())
    return {
        "images": len(dataset),
        "boxes": sum(len(record.labels) for record in dataset.records),
        "classes": list(dataset.classes),
        "digest": digest.hexdigest()[:12],
    }
