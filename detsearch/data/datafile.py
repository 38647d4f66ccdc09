"""The data file: a few lines of YAML that name format, root and splits.

format: coco                    format: voc                     format: synthetic
root: ../datasets/tiny_coco     root: ../datasets/bccd          width: 256
splits:                         splits:                         height: 192
  train:                          train: train                  splits:
    images: train2017             val: val                        train: {images: 200, seed: 1}
    annotations: ann/train.json   test: [test, extra]             val: {images: 50, seed: 2}
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from detsearch.data.formats import FORMATS
from detsearch.data.formats.base import DataFile
from detsearch.errors import DataError
from detsearch.yamlfile import explain, read_yaml

__all__ = ["DataFile", "load_datafile"]


def load_datafile(path: str | Path) -> DataFile:
    """Read and check a data file. DataError naming the file and the dotted field that is wrong."""
    path = Path(path)
    raw = read_yaml(path, DataError)
    kind = FORMATS.get(raw["format"]) if isinstance(raw.get("format"), str) else None
    if kind is None:
        received = repr(raw["format"]) if "format" in raw else "nothing"
        raise DataError(f"{path}: format", f"one of {', '.join(FORMATS)}", received)
    try:
        datafile = kind.model_validate(raw)
    except ValidationError as problem:
        raise explain(problem, str(path), DataError) from problem
    return datafile.located(path)
