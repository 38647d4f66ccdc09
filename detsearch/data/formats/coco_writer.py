"""Writes COCO: ``SPLIT/NAME.jpg`` and ``annotations/SPLIT.json``. Nothing is lost; `difficult` becomes ``ignore``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detsearch.data.dataset import Dataset
from detsearch.data.formats.writer import Writer
from detsearch.data.masks import to_coco


class CocoWriter(Writer):
    images = "{split}"

    def write(self, dataset: Dataset, names: Sequence[str], folder: Path) -> dict[str, str]:
        path = folder / "annotations" / f"{dataset.split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(_content(dataset, names), ensure_ascii=False), encoding="utf-8")
        return {"images": dataset.split, "annotations": path.relative_to(folder).as_posix()}


def _content(dataset: Dataset, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record, name in zip(dataset.records, names, strict=True):
        images.append({"id": record.image_id, "file_name": name, "width": record.width, "height": record.height})
        rows = zip(record.boxes.tolist(), record.labels.tolist(), record.area.tolist(), record.crowd, strict=True)
        for i, ((x1, y1, x2, y2), label, area, crowd) in enumerate(rows):
            annotation = {
                "id": len(annotations) + 1,
                "image_id": record.image_id,
                "category_id": dataset.category_ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": area,
                "iscrowd": int(crowd),
            }
            if record.difficult[i]:
                annotation["ignore"] = 1
            outline = None if record.segmentations is None else record.segmentations[i]
            if outline is not None:
                annotation["segmentation"] = to_coco(outline)
            annotations.append(annotation)
    categories = zip(dataset.category_ids, dataset.classes, strict=True)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
