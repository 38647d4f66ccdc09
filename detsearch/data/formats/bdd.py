"""BDD100K: JSON in the form of Scalabel, the labelling tool behind it.

    ROOT/images/100k/train/NAME.jpg   ROOT/labels/det_20/det_train.json   or   ROOT/labels/100k/train/NAME.json

A file holds a list of frames, ``{name, labels: [{category, box2d: {x1, y1, x2, y2}, attributes}]}``; frames without
objects have no labels. In the older form (2018) each image has a file with ``{name, frames: [{objects: [...]}]}``, the
name without ending, and some classes are spelled otherwise. As in the set's own tools (the `bdd100k` and `scalabel`
packages), which turn labels into COCO's,

- x2 and y2 are the last pixels of an object and belong to it, so that its width is x2 - x1 + 1;
- other persons, other vehicles and trailers are regions of no class, and count as crowds of the nearest one;
- what has no box, such as lanes and drivable areas, belongs to other tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from detsearch.data import images
from detsearch.data.dataset import Dataset
from detsearch.data.defects import Action, Findings, Kind
from detsearch.data.formats.base import DataFile, Name, SplitName
from detsearch.data.formats.builder import RecordBuilder, finite
from detsearch.data.formats.image_files import Unusable, expect_folder, malformed, placed, stored_size
from detsearch.data.paths import inside
from detsearch.data.reading import MAX_IMAGE_BYTES, brief, read_json
from detsearch.errors import DataError

CLASSES: Final = (
    "pedestrian",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
    "traffic light",
    "traffic sign",
)
OTHER_NAMES: Final = {
    "person": "pedestrian",
    "motor": "motorcycle",
    "bike": "bicycle",
    "caravan": "car",
    "van": "car",
}
CROWDS: Final = {"other person": "pedestrian", "other vehicle": "car", "trailer": "truck"}


class BddSplit(BaseModel):
    """Where the images and the labels of a split are, below the root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Name = Field(description="Folder of the images")
    labels: Name = Field(description="JSON file of all frames, or folder of JSON files")


class BddFile(DataFile):
    """A BDD100K dataset. Labels are BDD100K's ten classes in its order; `classes`, if given, are the categories to use
    in its order, BDD100K's or others, and objects of BDD100K's other classes are left out."""

    format: Literal["bdd"] = "bdd"
    root: Path = Field(Path("."), description="Folder of the dataset, relative to the data file")
    splits: Mapping[SplitName, BddSplit] = Field(min_length=1)

    def located(self, path: Path) -> BddFile:
        return super().located(path).model_copy(update={"root": path.parent / self.root})

    def read(self, split: str, findings: Findings) -> Dataset:
        where = self.splits[split]
        expect_folder(self.root, where.images, f"{self.where}: splits.{split}.images")
        classes = self.classes or CLASSES
        meanings = _meanings(classes)
        records = []
        seen: set[str] = set()
        for place, raw in _frames(self.root, where.labels, findings):
            try:
                name, objects, size = _content(raw)
                if name in seen:
                    raise Unusable(Kind.DUPLICATE_ID, f"name {name!r}")
                seen.add(name)
                path = _image_path(self.root, where.images, name)
                width, height = size or stored_size(path)
            except Unusable as problem:
                findings.fault(problem.kind, place, problem.detail, Action.SKIPPED_IMAGE)
                continue
            builder = RecordBuilder(image_id=len(seen), path=path, width=width, height=height, findings=findings)
            for number, item in enumerate(objects):
                _add(builder, item, meanings, f"{place}: {name}: label {number}", findings)
            records.append(builder.record())
        return self._dataset(split, classes, records)


def _meanings(classes: tuple[str, ...]) -> dict[str, tuple[int, bool] | None]:
    """Label by category, and whether it is a crowd; None for what is known and left out."""
    meanings: dict[str, tuple[int, bool] | None] = {}
    for crowd, names in ((False, {name: name for name in CLASSES}), (False, OTHER_NAMES), (True, CROWDS)):
        for name, meant in names.items():
            meanings[name] = (classes.index(meant), crowd) if meant in classes else None
    return meanings | {name: (label, False) for label, name in enumerate(classes)}


def _frames(root: Path, labels: str, findings: Findings) -> Iterator[tuple[str, Any]]:
    """Where each frame stands, and what it is as yet unchecked."""
    path = inside(root, labels)
    if not path.is_dir():
        for number, frame in enumerate(_listed(read_json(path, "BDD100K JSON"), path)):
            yield f"{path}: frames[{number}]", frame
        return
    for file in sorted(path.glob("*.json")):
        try:
            found = _file_frames(placed(root, labels, file.name))
        except Unusable as problem:
            findings.fault(problem.kind, str(file), problem.detail, Action.SKIPPED_IMAGE)
            continue
        for number, frame in enumerate(found):
            yield str(file) if len(found) == 1 else f"{file}: frames[{number}]", frame


def _file_frames(path: Path) -> list[Any]:
    """The frames in one file of many."""
    try:
        return _listed(read_json(path, "BDD100K JSON", MAX_IMAGE_BYTES), path)
    except DataError as problem:
        raise malformed(problem) from problem


def _listed(content: Any, path: Path) -> list[Any]:
    """The frames of a file: a list of them, Scalabel's whole dataset, or one image."""
    if isinstance(content, dict) and "name" in content:
        return [content]
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list):
        raise DataError(str(path), "BDD100K JSON, a list of frames or one image", brief(content))
    return frames


def _content(frame: Any) -> tuple[str, list[Any], tuple[int, int] | None]:
    """Name, objects and, where it is stated, size (width, height) of one frame of either form."""
    frame = frame if isinstance(frame, dict) else {}
    name, objects, size = frame.get("name"), frame.get("labels"), frame.get("size")
    if "frames" in frame:
        inner = frame["frames"]
        if not (isinstance(inner, list) and len(inner) == 1 and isinstance(inner[0], dict)):
            raise Unusable(Kind.MALFORMED, f"'frames' with the one frame of the image needed, got {brief(inner)}")
        objects = inner[0].get("objects")
    objects = [] if objects is None else objects
    if not (isinstance(name, str) and name and isinstance(objects, list)):
        raise Unusable(Kind.MALFORMED, f"a text 'name' and a list of labels needed, got {brief(frame)}")
    sides = [finite(size.get(side)) for side in ("width", "height")] if isinstance(size, dict) else [None]
    whole = [int(side) for side in sides if side is not None and side >= 1]
    return name, objects, (whole[0], whole[1]) if len(whole) == 2 else None


def _image_path(root: Path, folder: str, name: str) -> Path:
    """The image of this name; the older form leaves the ending out."""
    ends = ("",) if PurePosixPath(name).suffix.lower() in images.SUFFIXES else images.SUFFIXES
    candidates = (placed(root, folder, name + end) for end in ends)
    return next((path for path in candidates if path.is_file()), root / folder / (name + ends[0]))


def _add(
    builder: RecordBuilder,
    item: Any,
    meanings: Mapping[str, tuple[int, bool] | None],
    where: str,
    findings: Findings,
) -> None:
    """The object of one label."""
    item = item if isinstance(item, dict) else {}
    category, box = item.get("category"), item.get("box2d")
    if box is None and item.get("poly2d") is not None and category not in meanings:
        return  # a lane or an area
    if not (isinstance(category, str) and category in meanings):
        detail = f"{brief(category)} is none of BDD100K's, nor in 'classes'"
        findings.fault(Kind.UNKNOWN_CATEGORY, where, detail, Action.SKIPPED_BOX)
        return
    meaning = meanings[category]
    if meaning is None:
        return
    corners = [finite(box.get(key)) if isinstance(box, dict) else None for key in ("x1", "y1", "x2", "y2")]
    numbers = [number for number in corners if number is not None]
    if len(numbers) < 4:
        detail = f"box2d of four finite numbers needed, got {brief(box)}"
        findings.fault(Kind.MALFORMED, where, detail, Action.SKIPPED_BOX)
        return
    x1, y1, x2, y2 = numbers
    attributes = item.get("attributes")
    flags = attributes if isinstance(attributes, dict) else {}
    builder.add(
        # A box drawn up to the very edge has its last pixel beyond it, which is no defect.
        (x1, y1, min(x2 + 1, max(x2, builder.width)), min(y2 + 1, max(y2, builder.height))),
        meaning[0],
        where=where,
        crowd=meaning[1] or flags.get("crowd") in (1, True),
        difficult=flags.get("difficult") in (1, True),
        segmentation=builder.outline(_outline(item), where) if findings.masks else None,
    )


def _outline(item: Mapping[str, Any]) -> object:
    """Scalabel's closed polygons or run lengths, as COCO has them."""
    if item.get("rle") is not None:
        return item["rle"]
    polygons = item.get("poly2d")
    if not isinstance(polygons, list):
        return polygons
    return [_flat(polygon) for polygon in polygons]


def _flat(polygon: Any) -> object:
    """The vertices of one polygon as x, y, x, y, ...; what is none, or has curved sides, as it is, to be refused."""
    if not isinstance(polygon, dict) or "C" in str(polygon.get("types")):
        return polygon
    vertices = polygon.get("vertices")
    if not isinstance(vertices, list) or any(not isinstance(point, list) or len(point) != 2 for point in vertices):
        return polygon
    return [value for point in vertices for value in point]
