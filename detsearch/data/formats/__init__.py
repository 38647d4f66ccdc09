"""The dataset formats. A new one is a subclass of `DataFile` and a line here."""

from __future__ import annotations

from detsearch.data.formats.base import DataFile
from detsearch.data.formats.bdd import BddFile
from detsearch.data.formats.coco import CocoFile
from detsearch.data.formats.synthetic import SyntheticFile
from detsearch.data.formats.voc import VocFile
from detsearch.data.formats.yolo import YoloFile

FORMATS: dict[str, type[DataFile]] = {
    "coco": CocoFile,
    "voc": VocFile,
    "bdd": BddFile,
    "yolo": YoloFile,
    "synthetic": SyntheticFile,
}
