"""Writes BDD100K's form: ``images/100k/SPLIT/NAME.jpg`` and ``labels/det_20/det_SPLIT.json``. `crowd` and `difficult`
are attributes, as which BDD100K has the first; masks stand beside the boxes, as polygons or run lengths."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from detsearch.data.dataset import Dataset, ImageRecord
from detsearch.data.formats.writer import Writer
from detsearch.data.masks import RunLengths, Segmentation

DIGITS = 4  # of pixels; float32 has no more


class BddWriter(Writer):
    images = "images/100k/{split}"

    def write(self, dataset: Dataset, names: Sequence[str], folder: Path) -> dict[str, str]:
        numbers = count(1)
        frames = []
        for record, name in zip(dataset.records, names, strict=True):
            size = {"width": record.width, "height": record.height}
            labels = [
                {"id": str(next(numbers)), **_label(record, i, dataset.classes)} for i in range(len(record.labels))
            ]
            frames.append({"name": name, "size": size, "labels": labels})
        path = folder / "labels" / "det_20" / f"det_{dataset.split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(frames, ensure_ascii=False), encoding="utf-8")
        return {"images": self.images.format(split=dataset.split), "labels": path.relative_to(folder).as_posix()}


def _label(record: ImageRecord, i: int, classes: Sequence[str]) -> dict[str, Any]:
    x1, y1, x2, y2 = record.boxes[i].tolist()
    corners = {"x1": x1, "y1": y1, "x2": x2 - 1, "y2": y2 - 1}  # the last pixel belongs to the object
    flags = {name: True for name in ("crowd", "difficult") if getattr(record, name)[i]}
    outline = None if record.segmentations is None else record.segmentations[i]
    return {
        "category": classes[record.labels[i]],
        "attributes": flags,
        "box2d": {key: round(value, DIGITS) for key, value in corners.items()},
        **({} if outline is None else _outline(outline)),
    }


def _outline(outline: Segmentation) -> dict[str, Any]:
    if isinstance(outline, RunLengths):
        return {"rle": outline.to_coco()}
    return {"poly2d": [{"vertices": part.tolist(), "types": "L" * len(part), "closed": True} for part in outline]}
