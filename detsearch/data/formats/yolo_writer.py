"""Writes YOLO: ``images/SPLIT/NAME.jpg``, ``labels/SPLIT/NAME.txt``, and a data.yaml for other programs.

YOLO has neither crowd regions nor difficult objects. As plain boxes they would be targets, so they are left out. Masks
are written where every object of an image has polygons that its box is the bounds of: other programs take a file's
lines for polygons all or none. The parts of an object are joined to one polygon by lines there and back, which cover
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import yaml
from numpy.typing import NDArray

from detsearch.data.dataset import Dataset, ImageRecord
from detsearch.data.formats.builder import ROUNDING
from detsearch.data.formats.writer import Writer, decimal
from detsearch.data.formats.yolo import signed_area
from detsearch.data.masks import Polygons, RunLengths

DIGITS = 8  # of parts of an image's side: 0.0001 pixels of 10,000


class YoloWriter(Writer):
    images = "images/{split}"
    settings: ClassVar = {"config": "data.yaml"}

    def write(self, dataset: Dataset, names: Sequence[str], folder: Path) -> str:
        place = folder / "labels" / dataset.split
        place.mkdir(parents=True, exist_ok=True)
        for record, name in zip(dataset.records, names, strict=True):
            lines = "".join(f"{line}\n" for line in _lines(record))
            (place / name).with_suffix(".txt").write_text(lines, encoding="utf-8")
        images = self.images.format(split=dataset.split)
        config = folder / "data.yaml"
        content = {dataset.split: images, "nc": len(dataset.classes), "names": dict(enumerate(dataset.classes))}
        if config.exists():
            content = yaml.safe_load(config.read_text(encoding="utf-8")) | content
        config.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return images


def _lines(record: ImageRecord) -> list[str]:
    record = record.only(record.targets)
    side = np.array([record.width, record.height], dtype=np.float64)
    low, high = record.boxes[:, :2].astype(np.float64), record.boxes[:, 2:].astype(np.float64)
    rings = _rings(record)
    if rings is None:
        rows = list(np.concatenate([(low + high) / 2 / side, (high - low) / side], axis=1))
    else:
        rows = [np.clip(ring / side, 0, 1).ravel() for ring in rings]
    return [
        " ".join([str(label), *(decimal(number, DIGITS) for number in row)])
        for label, row in zip(record.labels.tolist(), rows, strict=True)
    ]


def _rings(record: ImageRecord) -> list[NDArray[np.float64]] | None:
    """A polygon (P, 2) for each object, None where that is not possible for all."""
    rings = []
    for outline, box in zip(record.segmentations or (None,) * len(record.labels), record.boxes, strict=True):
        if outline is None or isinstance(outline, RunLengths):
            return None
        ring = joined(outline)
        bounds = np.concatenate([ring.min(axis=0), ring.max(axis=0)])
        if np.abs(bounds - box).max() > ROUNDING:
            return None
        rings.append(ring)
    return rings or None


def joined(parts: Polygons) -> NDArray[np.float64]:
    """One polygon (P, 2) that covers what `parts` cover: all turn the same way, each reached from the first's start."""
    turned = [part if signed_area(part) >= 0 else part[::-1] for part in parts]
    start = turned[0][:1]
    more = [points for part in turned[1:] for points in (start, part, part[:1])]
    return np.concatenate([turned[0], *more])
