"""COCO JSON: one file of images, annotations and categories for a split, beside a folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeGuard

from pydantic import BaseModel, ConfigDict, Field

from detsearch.data.dataset import Dataset
from detsearch.data.defects import Action, Findings, Kind
from detsearch.data.formats.base import DataFile, Name, SplitName
from detsearch.data.formats.builder import RecordBuilder, finite
from detsearch.data.formats.image_files import expect_folder
from detsearch.data.paths import inside
from detsearch.data.reading import brief, read_json
from detsearch.errors import DataError

MAX_ID = 2**53  # what JSON readers keep exactly


class CocoSplit(BaseModel):
    """Where the images and the annotations of a split are, below the root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Name
    annotations: Name


class CocoFile(DataFile):
    """A COCO dataset. Labels 0..C-1 follow the category ids; `classes`, if given, selects categories by name, in its
    order, and objects of the others are left out. ``ignore`` of an annotation, as in the JSON that others made of
    Pascal VOC, is its `difficult`."""

    format: Literal["coco"] = "coco"
    root: Path = Field(Path("."), description="Folder of the dataset, relative to the data file")
    splits: Mapping[SplitName, CocoSplit] = Field(min_length=1)

    def located(self, path: Path) -> CocoFile:
        return super().located(path).model_copy(update={"root": path.parent / self.root})

    def read(self, split: str, findings: Findings) -> Dataset:
        where = self.splits[split]
        expect_folder(self.root, where.images, f"{self.where}: splits.{split}.images")
        annotations = inside(self.root, where.annotations)
        content = _content(annotations)
        names = _categories(content["categories"], annotations)
        wanted = tuple(names.values()) if self.classes is None else self.classes
        if absent := [name for name in wanted if name not in names.values()]:
            raise DataError(f"{self.where}: classes", f"categories of {annotations.name}", ", ".join(absent))
        ids = {name: category for category, name in names.items()}
        labels = {ids[name]: label for label, name in enumerate(wanted)}

        builders = _images(content["images"], self.root, where.images, annotations, findings)
        _objects(content["annotations"], builders, names, labels, annotations, findings)
        records = tuple(builder.record() for builder in builders.values() if builder is not None)
        return Dataset(name=self.name, split=split, classes=wanted, category_ids=tuple(labels), records=records)


def _content(path: Path) -> Mapping[str, list[Any]]:
    """The three lists that make a JSON file COCO."""
    content = read_json(path, "COCO JSON")
    needed = ("images", "annotations", "categories")
    expected = f"COCO JSON with the lists {', '.join(needed)}"
    if not isinstance(content, dict):
        raise DataError(str(path), expected, f"a JSON {type(content).__name__}")
    if missing := [key for key in needed if not isinstance(content.get(key), list)]:
        raise DataError(str(path), expected, f"no list {', '.join(missing)}")
    return content


def _categories(raw: list[Any], path: Path) -> dict[int, str]:
    """Names by category id, ascending."""
    names: dict[int, str] = {}
    for position, category in enumerate(raw):
        where = f"{path}: categories[{position}]"
        if not (isinstance(category, dict) and _is_id(category.get("id")) and isinstance(category.get("name"), str)):
            raise DataError(where, "an integer 'id' and a text 'name'", brief(category))
        if category["id"] in names or category["name"] in names.values():
            raise DataError(where, "an id and a name that no other category has", brief(category))
        names[category["id"]] = category["name"]
    if not names:
        raise DataError(f"{path}: categories", "at least one", "none")
    return dict(sorted(names.items()))


def _images(raw: list[Any], root: Path, folder: str, path: Path, findings: Findings) -> dict[int, RecordBuilder | None]:
    """A builder by image id; None for an image that is skipped, whose objects go with it."""
    builders: dict[int, RecordBuilder | None] = {}
    for position, image in enumerate(raw):
        where = f"{path}: images[{position}]"
        image = image if isinstance(image, dict) else {}
        image_id, name = image.get("id"), image.get("file_name")
        size = [finite(image.get(key)) for key in ("width", "height")]
        if not (_is_id(image_id) and isinstance(name, str) and all(side is not None and side >= 1 for side in size)):
            detail = f"needs integer 'id', text 'file_name', positive 'width' and 'height', got {brief(image)}"
            findings.fault(Kind.MALFORMED, where, detail, Action.SKIPPED_IMAGE)
            if _is_id(image_id):
                builders.setdefault(image_id, None)
            continue
        if image_id in builders:
            findings.fault(Kind.DUPLICATE_ID, where, f"image id {image_id}", Action.SKIPPED_IMAGE)
            continue
        builders[image_id] = None
        try:
            file = inside(root, folder, name)
        except DataError as problem:
            findings.fault(Kind.PATH_OUTSIDE, where, f"file_name {problem.received}", Action.SKIPPED_IMAGE)
            continue
        builders[image_id] = RecordBuilder(
            image_id=image_id, path=file, width=int(image["width"]), height=int(image["height"]), findings=findings
        )
    return builders


def _objects(
    raw: list[Any],
    builders: Mapping[int, RecordBuilder | None],
    names: Mapping[int, str],
    labels: Mapping[int, int],
    path: Path,
    findings: Findings,
) -> None:
    seen: set[int] = set()
    for position, item in enumerate(raw):
        where = f"{path}: annotations[{position}]"
        item = item if isinstance(item, dict) else {}
        image_id, category, number, box = (item.get(key) for key in ("image_id", "category_id", "id", "bbox"))
        corners = [finite(value) for value in box] if isinstance(box, list) and len(box) == 4 else [None]
        fault: tuple[Kind, str] | None = None
        if None in corners:
            fault = Kind.MALFORMED, f"bbox of four finite numbers needed, got {brief(box)}"
        elif not _is_id(image_id) or image_id not in builders:
            fault = Kind.UNKNOWN_IMAGE, f"image_id {brief(image_id)} is not defined"
        elif not _is_id(category) or category not in names:
            fault = Kind.UNKNOWN_CATEGORY, f"category_id {brief(category)} is not defined"
        elif _is_id(number) and number in seen:
            fault = Kind.DUPLICATE_ID, f"annotation id {number}"
        if _is_id(number):
            seen.add(number)
        if fault is not None:
            findings.fault(fault[0], where, fault[1], Action.SKIPPED_BOX)
            continue
        assert isinstance(image_id, int)
        assert isinstance(category, int)
        builder = builders[image_id]
        if builder is None or category not in labels:
            continue
        x, y, width, height = (value for value in corners if value is not None)
        area = finite(item.get("area"))
        builder.add(
            (x, y, x + width, y + height),
            labels[category],
            where=where,
            area=area if area is not None and area > 0 else None,
            crowd=item.get("iscrowd") in (1, True),
            difficult=item.get("ignore") in (1, True),
            segmentation=builder.outline(item.get("segmentation"), where) if findings.masks else None,
        )


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_ID
