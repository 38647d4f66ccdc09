"""Writes any dataset as COCO: the synthetic set for other programs, for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from detsearch.data.dataset import Dataset
from detsearch.data.masks import to_coco
from detsearch.errors import ResourceError
from detsearch.files import write_json


def write_coco(dataset: Dataset, folder: Path, split: str) -> Path:
    """Write ``folder/split/ID.png`` and ``folder/annotations/split.json``; the path of the latter.

    The JSON is written last and at once, so where it exists the images are complete. ResourceError if the folder cannot
    be written.
    """
    path = folder / "annotations" / f"{split}.json"
    try:
        for parent in (folder / split, path.parent):
            parent.mkdir(parents=True, exist_ok=True)
        for record in dataset.records:
            image = Image.fromarray(record.load().permute(1, 2, 0).numpy())
            image.save(folder / split / f"{record.image_id}.png")
    except OSError as problem:
        raise ResourceError(str(folder), "a writable folder", problem.strerror or str(problem)) from problem
    write_json(path, _content(dataset))
    return path


def _content(dataset: Dataset) -> dict[str, list[dict[str, Any]]]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in dataset.records:
        name = f"{record.image_id}.png"
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
