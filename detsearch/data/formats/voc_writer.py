"""Writes Pascal VOC: ``JPEGImages/NAME.jpg``, ``Annotations/NAME.xml``, ``ImageSets/Main/SPLIT.txt``.

VOC has no crowd regions; they become difficult objects, which are no targets and no misses either. Corners that are no
whole pixel numbers are written with their digits, as VOC 2011 has some. A box of one pixel or less would by VOC's rule
have xmin >= xmax, which every reader takes for a mistake, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from detsearch.data.dataset import Dataset, ImageRecord
from detsearch.data.formats.writer import Writer, decimal
from detsearch.errors import DataError

DIGITS = 4  # of pixels; float32 has no more


class VocWriter(Writer):
    images = "JPEGImages"

    def write(self, dataset: Dataset, names: Sequence[str], folder: Path) -> str:
        annotations, lists = folder / "Annotations", folder / "ImageSets" / "Main"
        annotations.mkdir(exist_ok=True)
        lists.mkdir(parents=True, exist_ok=True)
        for record, name in zip(dataset.records, names, strict=True):
            path = annotations / f"{Path(name).stem}.xml"
            text = _xml(record, name, dataset.classes)
            if path.exists() and path.read_text(encoding="utf-8") != text:
                hint = "VOC has one annotation for each image; convert the splits one by one (--split)"
                where = f"{record.path} in split {dataset.split}"
                raise DataError(where, "the objects that it has in other splits", "others", hint)
            path.write_text(text, encoding="utf-8")
        stems = "".join(f"{Path(name).stem}\n" for name in names)
        (lists / f"{dataset.split}.txt").write_text(stems, encoding="utf-8")
        return dataset.split


def _xml(record: ImageRecord, name: str, classes: Sequence[str]) -> str:
    root = Element("annotation")
    SubElement(root, "folder").text = "JPEGImages"
    SubElement(root, "filename").text = name
    _add(root, "size", {"width": str(record.width), "height": str(record.height), "depth": "3"})
    SubElement(root, "segmented").text = "0"
    for (x1, y1, x2, y2), label, aside in zip(
        record.boxes.tolist(), record.labels.tolist(), record.difficult | record.crowd, strict=True
    ):
        corners = [decimal(corner, DIGITS) for corner in (x1 + 1, y1 + 1, x2, y2)]
        if float(corners[0]) >= float(corners[2]) or float(corners[1]) >= float(corners[3]):
            continue
        fields = {"name": classes[label], "pose": "Unspecified", "truncated": "0", "difficult": str(int(aside))}
        item = _add(root, "object", fields)
        _add(item, "bndbox", dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)))
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def _add(parent: Element, name: str, fields: dict[str, str]) -> Element:
    child = SubElement(parent, name)
    for key, text in fields.items():
        SubElement(child, key).text = text
    return child
