"""YOLO: a text file of numbers for each image, and a data.yaml that says where the images are and names the classes.

    ROOT/data.yaml   ROOT/images/train/NAME.jpg   ROOT/labels/train/NAME.txt

The label file of an image has its path with the last folder ``images`` turned into ``labels``; where there is no such
folder it lies beside the image. An image without label file has no objects. A line is an object: ``class cx cy w h``,
centre and size, or ``class x1 y1 x2 y2 ...``, a polygon of three points or more; all but the class in parts of the
image's width and height.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from detsearch.data import images
from detsearch.data.dataset import Dataset
from detsearch.data.defects import Action, Findings, Kind
from detsearch.data.formats.base import ClassNames, DataFile, Name, OneOrMore, SplitName
from detsearch.data.formats.builder import RecordBuilder
from detsearch.data.formats.image_files import Unusable, malformed, placed, stored_size
from detsearch.data.paths import inside
from detsearch.data.reading import MAX_IMAGE_BYTES, MAX_SET_BYTES, brief, read_text
from detsearch.errors import DataError
from detsearch.yamlfile import explain, read_yaml

SLACK: Final = 1e-6
"""By which a number may leave 0..1: label files have six digits."""


def _in_order(raw: Any) -> Any:
    """Names as they stand, or by number; a name that YAML takes for a number is a name."""
    if isinstance(raw, dict):
        if set(raw) != set(range(len(raw))) or any(isinstance(number, bool) for number in raw):
            raise ValueError("a list of names, or names by number from 0 on without a gap")
        raw = [raw[number] for number in range(len(raw))]
    return [str(name) if type(name) is int else name for name in raw] if isinstance(raw, list) else raw


Names = Annotated[
    ClassNames, BeforeValidator(_in_order, json_schema_input_type=list[Name | int] | dict[int, Name | int])
]


class YoloConfig(BaseModel):
    """What is read of a set's own data.yaml; what else stands there, such as commands to download it, is not."""

    model_config = ConfigDict(frozen=True)

    path: Name | None = None
    train: OneOrMore | None = None
    val: OneOrMore | None = None
    test: OneOrMore | None = None
    names: Names
    nc: int | None = None

    def splits(self) -> dict[str, tuple[str, ...]]:
        # Exports of Roboflow write ../train/images for what lies beside the file.
        stated = {"train": self.train, "val": self.val, "test": self.test}
        return {name: tuple(p.removeprefix("../") for p in places) for name, places in stated.items() if places}


class YoloFile(DataFile):
    """A YOLO dataset. `config`, its own data.yaml, gives root, names and splits as far as they are not given here. The
    places of a split are folders, searched through, or lists of images (.txt, paths relative to the list), below the
    root.

    Labels 0..C-1 are YOLO's own; `classes`, if given, selects some of the names, in its order, and objects of the
    others are left out.
    """

    format: Literal["yolo"] = "yolo"
    config: Path | None = Field(None, description="The set's own data.yaml, relative to the data file")
    root: Path | None = Field(None, description="Folder of the dataset, relative to the data file")
    names: Names | None = Field(None, description="All class names by number: a list, or a mapping from 0 on")
    splits: Mapping[SplitName, OneOrMore] = Field({}, description="Folder or list of the images, or several")

    def located(self, path: Path) -> YoloFile:
        root = None if self.root is None else path.parent / self.root
        names, splits = self.names, dict(self.splits)
        if self.config is not None:
            place = path.parent / self.config
            config = _read_config(place)
            root = root or _root(place, config.path, f"{path}: root")
            names, splits = names or config.names, splits or config.splits()
        for field, value in (("names", names), ("splits", splits)):
            if not value:
                raise DataError(f"{path}: {field}", "this key, or a 'config' that has it", "nothing")
        return super().located(path).model_copy(update={"root": root or path.parent, "names": names, "splits": splits})

    def read(self, split: str, findings: Findings) -> Dataset:
        assert self.root is not None
        assert self.names is not None
        classes = self.classes or self.names
        if absent := [name for name in classes if name not in self.names]:
            raise DataError(f"{self.where}: classes", f"some of {', '.join(self.names)}", ", ".join(absent))
        labels = [classes.index(name) if name in classes else None for name in self.names]
        records = []
        seen: set[str] = set()
        labelled = False
        for name in self._images(self.root, split):
            where = f"{self.root}: {name}"
            if name in seen:
                findings.fault(Kind.DUPLICATE_ID, where, f"twice in split {split}", Action.SKIPPED_IMAGE)
                continue
            seen.add(name)
            try:
                path, label_file = placed(self.root, name), placed(self.root, label_path(name))
                labelled |= label_file.exists()
                lines = _lines(label_file)
                width, height = stored_size(path)
            except Unusable as problem:
                findings.fault(problem.kind, where, problem.detail, Action.SKIPPED_IMAGE)
                continue
            builder = RecordBuilder(image_id=len(seen), path=path, width=width, height=height, findings=findings)
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    _add(builder, line.split(), labels, f"{label_file}: line {number}", findings)
            records.append(builder.record())
        if records and not labelled:  # no set consists of empty images; its labels lie elsewhere
            first = label_path(records[0].path.relative_to(self.root).as_posix())
            expected = f"label files, such as {first} below {self.root}"
            raise DataError(f"{self.where}: splits.{split}", expected, f"none for {len(records)} images")
        return self._dataset(split, classes, records)

    def _images(self, root: Path, split: str) -> Iterator[str]:
        """Paths of the split's images below the root."""
        for place in self.splits[split]:
            path = inside(root, place)
            if path.is_dir():
                yield from (str(PurePosixPath(place, name)) for name in _files(path))
            elif path.suffix == ".txt":
                folder = PurePosixPath(place).parent
                lines = read_text(path, "a list of images", MAX_SET_BYTES).splitlines()
                yield from (str(folder / line.strip()) for line in lines if line.strip())
            else:
                raise DataError(f"{self.where}: splits.{split}", "a folder or a list (.txt)", f"{path}, which is none")


def label_path(image: str) -> str:
    """Where the label file of an image is; both below the root."""
    *folders, name = PurePosixPath(image).parts
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return str(PurePosixPath(*folders, name).with_suffix(".txt"))


def _read_config(path: Path) -> YoloConfig:
    try:
        config = YoloConfig.model_validate(read_yaml(path, DataError))
    except ValidationError as problem:
        raise explain(problem, str(path), DataError, YoloConfig) from problem
    if config.nc not in (None, len(config.names)):
        raise DataError(f"{path}: nc", f"{len(config.names)}, the number of names", str(config.nc))
    return config


def _root(config: Path, stated: str | None, field: str) -> Path:
    """The root that a data.yaml states; what lies elsewhere must be said in the data file, by who trusts it."""
    if stated is None:
        return config.parent
    try:
        root = inside(config.parent, stated)
    except DataError:
        root = None
    if root is None or not root.is_dir():
        hint = f"write the folder of the set as 'root' in {field.removesuffix(': root')}"
        raise DataError(f"{config}: path", f"a folder below {config.parent}", repr(stated), hint)
    return root


def _files(folder: Path) -> Iterator[str]:
    """Image files in a folder and below it, sorted, relative to it; hidden ones and linked folders are passed over."""

    def refuse(problem: OSError) -> None:
        raise DataError(str(problem.filename), "a readable folder", problem.strerror) from problem

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = PurePosixPath(*Path(parent).relative_to(folder).parts)
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in images.SUFFIXES:
                yield str(place / name)


def _lines(path: Path) -> list[str]:
    """Of a label file; none where it does not exist."""
    if not path.exists():
        return []
    try:
        return read_text(path, "label lines", MAX_IMAGE_BYTES).splitlines()
    except DataError as problem:
        raise malformed(problem) from problem


def _add(builder: RecordBuilder, fields: list[str], labels: list[int | None], where: str, findings: Findings) -> None:
    """The object of one line."""
    try:
        kind, *rest = map(float, fields)
    except ValueError:
        kind, rest = math.nan, []
    fault: tuple[Kind, str] | None = None
    if len(rest) != 4 and (len(rest) < 6 or len(rest) % 2):
        found = brief(" ".join(fields))
        fault = Kind.MALFORMED, f"5 numbers of a class and its box, or 7, 9, ... of a polygon needed, got {found}"
    elif not all(-SLACK <= number <= 1 + SLACK for number in rest):  # a NaN is not in there either
        fault = Kind.MALFORMED, f"numbers in 0..1 needed, got {brief(' '.join(fields[1:]))}"
    elif not (0 <= kind < len(labels) and kind == int(kind)):
        fault = Kind.UNKNOWN_CATEGORY, f"class {brief(fields[0])} is none of 0..{len(labels) - 1}"
    if fault is not None:
        findings.fault(fault[0], where, fault[1], Action.SKIPPED_BOX)
        return
    label = labels[int(kind)]
    if label is None:
        return
    width, height = builder.width, builder.height
    if len(rest) == 4:
        x, y, w, h = rest
        corners = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
        builder.add(corners, label, where=where)
        return
    points = np.clip(np.reshape(rest, (-1, 2)), 0, 1) * [width, height]
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    outline = builder.outline([points.ravel().tolist()], where) if findings.masks else None
    builder.add((x1, y1, x2, y2), label, where=where, area=abs(signed_area(points)) or None, segmentation=outline)


def signed_area(points: NDArray[np.float64]) -> float:
    """Of a polygon (P, 2), by the shoelace formula: positive where x turns towards y."""
    after = np.roll(points, -1, axis=0)
    return float(np.sum(points[:, 0] * after[:, 1] - points[:, 1] * after[:, 0]) / 2)
