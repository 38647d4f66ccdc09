"""The dataset formats. A new one is a subclass of `DataFile` and a line here, and of `Writer` if it can be written."""

from __future__ import annotations

from detsearch.data.formats.base import DataFile
from detsearch.data.formats.bdd import BddFile
from detsearch.data.formats.bdd_writer import BddWriter
from detsearch.data.formats.coco import CocoFile
from detsearch.data.formats.coco_writer import CocoWriter
from detsearch.data.formats.synthetic import SyntheticFile
from detsearch.data.formats.voc import VocFile
from detsearch.data.formats.voc_writer import VocWriter
from detsearch.data.formats.writer import Writer
from detsearch.data.formats.yolo import YoloFile
from detsearch.data.formats.yolo_writer import YoloWriter

WRITERS: dict[str, Writer] = {"coco": CocoWriter(), "voc": VocWriter(), "bdd": BddWriter(), "yolo": YoloWriter()}
FORMATS: dict[str, type[DataFile]] = {
    "coco": CocoFile,
    "voc": VocFile,
    "bdd": BddFile,
    "yolo": YoloFile,
    "synthetic": SyntheticFile,
}
