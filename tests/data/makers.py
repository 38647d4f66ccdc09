"""Small datasets on disk, sound ones, for tests to break."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detsearch.data.datafile import load_datafile
from detsearch.data.dataset import Dataset, ImageRecord
from detsearch.data.formats.base import DataFile


def save_image(path: Path, width: int = 40, height: int = 30, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def coco_content() -> dict[str, Any]:
    """Two images, a dog and a crowd of cats in the first, nothing in the second; category ids with a gap."""
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 9, "file_name": "b.png", "width": 20, "height": 50},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [2, 3, 10, 12], "area": 77.5, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 30], "area": 900, "iscrowd": 1},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def coco(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None, extra: str = "") -> DataFile:
    """A data file over the above, changed by `change`; `extra` are more lines of YAML."""
    content = coco_content()
    change(content)
    save_image(folder / "set" / "img" / "a.jpg", 40, 30)
    save_image(folder / "set" / "img" / "b.png", 20, 50)
    (folder / "set" / "ann.json").write_text(json.dumps(content))
    return datafile(
        folder, f"format: coco\nroot: set\nsplits:\n  train: {{images: img, annotations: ann.json}}\n{extra}"
    )


def voc_object(name: str, box: tuple[object, object, object, object], difficult: int = 0) -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<part><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        f"<bndbox>{corners}</bndbox></object>"
    )


def voc_xml(objects: str, filename: str = "a.jpg", size: tuple[int, int] | None = (40, 30)) -> str:
    sides = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation><filename>{filename}</filename>{sides}{objects}</annotation>"


def voc(folder: Path, xml: str, extra: str = "", names: str = "a\n") -> DataFile:
    """A set of one 40x30 image called a, with this annotation."""
    root = folder / "set"
    save_image(root / "JPEGImages" / "a.jpg", 40, 30)
    for sub in ("Annotations", "ImageSets/Main"):
        (root / sub).mkdir(parents=True, exist_ok=True)
    (root / "Annotations" / "a.xml").write_text(xml)
    (root / "ImageSets" / "Main" / "train.txt").write_text(names)
    return datafile(folder, f"format: voc\nroot: set\nsplits: {{train: train}}\n{extra}")


def yolo(folder: Path, labels: str | None, extra: str = "") -> DataFile:
    """A set of two 40x30 images, a with this label file, b without objects; classes dog and cat."""
    root = folder / "set"
    for name in ("a.jpg", "b.png"):
        save_image(root / "images" / "train" / name, 40, 30)
    (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
    (root / "labels" / "train" / "b.txt").write_text("")
    if labels is not None:
        (root / "labels" / "train" / "a.txt").write_text(labels)
    return datafile(folder, f"format: yolo\nroot: set\nnames: [dog, cat]\nsplits: {{train: images/train}}\n{extra}")


def bdd_label(
    category: object = "car", box: tuple[object, ...] | None = (2, 3, 11, 14), **more: object
) -> dict[str, Any]:
    corners = None if box is None else dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    return {"id": "0", "category": category, "box2d": corners, **more}


def bdd(folder: Path, frames: object, extra: str = "") -> DataFile:
    """A set of two 40x30 images, a.jpg and b.jpg, with this JSON."""
    root = folder / "set"
    for name in ("a.jpg", "b.jpg"):
        save_image(root / "images" / name, 40, 30)
    (root / "det.json").write_text(json.dumps(frames))
    splits = "splits: {train: {images: images, labels: det.json}}"
    return datafile(folder, f"format: bdd\nroot: set\n{splits}\n{extra}")


def datafile(folder: Path, text: str) -> DataFile:
    path = folder / "data.yaml"
    path.write_text(text)
    return load_datafile(path)


def record(
    path: Path, width: int, height: int, boxes: list[list[float]], image_id: int = 1, **flags: Any
) -> ImageRecord:
    count = len(boxes)
    corners = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    return ImageRecord(
        image_id=image_id,
        path=path,
        width=width,
        height=height,
        boxes=corners,
        labels=flags.get("labels", np.zeros(count, np.int64)),
        area=(corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]),
        crowd=flags.get("crowd", np.zeros(count, np.bool_)),
        difficult=flags.get("difficult", np.zeros(count, np.bool_)),
        segmentations=flags.get("segmentations"),
    )


def dataset(*records: ImageRecord, split: str = "train", classes: tuple[str, ...] = ("a", "b")) -> Dataset:
    ids = tuple(range(1, len(classes) + 1))
    return Dataset(name="set", split=split, classes=classes, category_ids=ids, records=records)
