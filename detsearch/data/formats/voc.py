"""Pascal VOC: one XML file an image, and lists of names for the splits.

    ROOT/Annotations/NAME.xml   ROOT/JPEGImages/NAME.jpg   ROOT/ImageSets/Main/SPLIT.txt

Corners in the XML are pixel numbers that start at 1 and include the last pixel, so x1 = xmin - 1 and x2 = xmax.
A box with xmin = xmax would by that rule be one pixel wide; in practice it is a slip of the annotator, and it counts as
a box without area.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from pydantic import Field, PrivateAttr

from detsearch.data.dataset import Dataset
from detsearch.data.defects import Action, Findings, Kind
from detsearch.data.formats.base import DataFile, OneOrMore, SplitName
from detsearch.data.formats.builder import RecordBuilder, finite
from detsearch.data.formats.image_files import Unusable, malformed, placed, stored_size
from detsearch.data.paths import inside
from detsearch.data.reading import MAX_IMAGE_BYTES, MAX_SET_BYTES, read_bytes, read_text
from detsearch.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".webp")


class VocFile(DataFile):
    """A Pascal VOC dataset. A split is the name of a list in ImageSets/Main, or several names.

    Without `classes` they are all names that occur in any of the data file's splits, sorted; with it, any other name in
    an annotation is an unknown category.
    """

    format: Literal["voc"] = "voc"
    root: Path = Field(Path("."), description="Folder of the dataset, relative to the data file")
    splits: Mapping[SplitName, OneOrMore] = Field(min_length=1)
    _found: tuple[str, ...] | None = PrivateAttr(None)
    _parsed: dict[str, _Annotation] = PrivateAttr(default_factory=dict)  # what finds the classes is read for the split

    def located(self, path: Path) -> VocFile:
        return super().located(path).model_copy(update={"root": path.parent / self.root})

    def read(self, split: str, findings: Findings) -> Dataset:
        classes = self.classes or self._discovered()
        labels = {name: label for label, name in enumerate(classes)}
        records = []
        seen: set[str] = set()
        for name in self._names(split):
            where = f"{self.root}: {name}"
            if name in seen:
                findings.fault(Kind.DUPLICATE_ID, where, f"twice in split {split}", Action.SKIPPED_IMAGE)
                continue
            seen.add(name)
            try:
                builder = self._read_image(name, len(seen), labels, findings)
            except Unusable as problem:
                findings.fault(problem.kind, where, problem.detail, Action.SKIPPED_IMAGE)
                continue
            records.append(builder.record())
        return self._dataset(split, classes, records)

    def _read_image(self, name: str, image_id: int, labels: Mapping[str, int], findings: Findings) -> RecordBuilder:
        annotation = self._annotation(name)
        path = _image_path(self.root, name, annotation.filename)
        width, height = annotation.size or stored_size(path)  # some tools write no size, or 0
        builder = RecordBuilder(image_id=image_id, path=path, width=width, height=height, findings=findings)
        for position, item in enumerate(annotation.objects, start=1):
            where = f"{annotation.path}: object {position}"
            if item.box is None:
                detail = "bndbox of four finite numbers needed"
                findings.fault(Kind.MALFORMED, where, detail, Action.SKIPPED_BOX)
            elif item.name not in labels:
                findings.fault(Kind.UNKNOWN_CATEGORY, where, f"{item.name!r} is not in 'classes'", Action.SKIPPED_BOX)
            else:
                xmin, ymin, xmax, ymax = item.box
                # Corners that coincide stay as they are, so that the builder too sees no area.
                box = (xmin - (xmin < xmax), ymin - (ymin < ymax), xmax, ymax)
                builder.add(box, labels[item.name], where=where, difficult=item.difficult)
        return builder

    def _annotation(self, name: str) -> _Annotation:
        if name not in self._parsed:
            self._parsed[name] = _annotation(self.root, name)
        return self._parsed[name]

    def _names(self, split: str) -> list[str]:
        names: list[str] = []
        for list_name in self.splits[split]:
            path = inside(self.root, "ImageSets", "Main", f"{list_name}.txt")
            try:
                lines = read_text(path, f"a readable list {path}", MAX_SET_BYTES).splitlines()
            except DataError as problem:
                raise DataError(f"{self.where}: splits.{split}", problem.expected, problem.received) from problem
            # The lists of one class carry a flag after the name.
            names += [re.sub(r"\s+(-?1|0)$", "", line.strip()) for line in lines if line.strip()]
        return names

    def _discovered(self) -> tuple[str, ...]:
        if self._found is None:
            names: set[str] = set()
            for name in sorted({name for split in self.splits for name in self._names(split)}):
                try:
                    names.update(item.name for item in self._annotation(name).objects)
                except Unusable:
                    continue  # reported where the split is read
            if not names:
                raise DataError(f"{self.where}: splits", "annotations with objects, to find the classes", "none")
            self._found = tuple(sorted(names))
        return self._found


@dataclass(frozen=True, slots=True)
class _Object:
    name: str
    box: tuple[float, float, float, float] | None
    difficult: bool


@dataclass(frozen=True, slots=True)
class _Annotation:
    path: Path
    filename: str
    size: tuple[int, int] | None
    objects: tuple[_Object, ...]


def _annotation(root: Path, name: str) -> _Annotation:
    path = placed(root, "Annotations", f"{name}.xml")
    try:
        tree: Element | None = fromstring(read_bytes(path, "an annotation", MAX_IMAGE_BYTES))
    except DefusedXmlException as problem:
        raise Unusable(Kind.MALFORMED, f"{path.name} declares entities, which is refused (XML bomb)") from problem
    except (ParseError, ValueError, LookupError) as problem:
        raise Unusable(Kind.MALFORMED, f"{path.name} is no XML ({problem})") from problem
    except DataError as problem:
        raise malformed(problem) from problem
    if tree is None or tree.tag != "annotation":
        raise Unusable(Kind.MALFORMED, f"{path.name} has no root element 'annotation'")
    sides = _numbers(tree.find("size"), ("width", "height"))
    size = (int(sides[0]), int(sides[1])) if sides is not None and min(sides) >= 1 else None
    return _Annotation(path, (tree.findtext("filename") or "").strip(), size, tuple(_objects(tree)))


def _objects(tree: Element) -> Iterable[_Object]:
    for item in tree.findall("object"):
        box = _numbers(item.find("bndbox"), ("xmin", "ymin", "xmax", "ymax"))
        corners = None if box is None else (box[0], box[1], box[2], box[3])
        difficult = (item.findtext("difficult") or "").strip() == "1"
        yield _Object((item.findtext("name") or "").strip(), corners, difficult)


def _numbers(parent: Element | None, names: tuple[str, ...]) -> list[float] | None:
    """The numbers in these children, or None if one is absent or no finite number."""
    numbers: list[float] = []
    for name in names:
        try:
            number = finite(float("" if parent is None else parent.findtext(name) or ""))
        except ValueError:
            return None
        if number is None:
            return None
        numbers.append(number)
    return numbers


def _image_path(root: Path, name: str, filename: str) -> Path:
    """The image called as its annotation; else the one that the annotation names, which must not leave the root."""
    named = placed(root, "JPEGImages", filename) if filename else None
    candidates = (placed(root, "JPEGImages", name + extension) for extension in EXTENSIONS)
    found = next((path for path in candidates if path.is_file()), None)
    return found or named or root / "JPEGImages" / (name + EXTENSIONS[0])
