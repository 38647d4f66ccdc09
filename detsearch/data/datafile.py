"""The data file: a few lines of YAML that name format, root and splits.

format: coco                    format: voc                     format: synthetic
root: ../datasets/tiny_coco     root: ../datasets/bccd          width: 256
splits:                         splits:                         height: 192
  train:                          train: train                  splits:
    images: train2017             val: val                        train: {images: 200, seed: 1}
    annotations: ann/train.json   test: [test, extra]             val: {images: 50, seed: 2}

format: bdd                           format: yolo                        format: yolo
root: ../datasets/bdd100k             config: ../datasets/mine/data.yaml  root: ../datasets/mine
splits:                                                                   names: [dog, cat]
  train:                                                                  splits:
    images: images/100k/train                                               train: images/train
    labels: labels/det_20/det_train.json                                    val: [images/val, more.txt]
"""

from __future__ import annotations

import difflib
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from detsearch.data.formats import FORMATS
from detsearch.data.formats.base import DataFile
from detsearch.errors import DataError
from detsearch.yamlfile import explain, read_yaml

__all__ = ["DataFile", "datafile_schema", "load_datafile"]


def load_datafile(path: str | Path) -> DataFile:
    """Read and check a data file. DataError naming the file and the dotted field that is wrong."""
    path = Path(path)
    raw = read_yaml(path, DataError)
    kind = FORMATS.get(raw["format"]) if isinstance(raw.get("format"), str) else None
    if kind is None:
        received = repr(raw["format"]) if "format" in raw else "nothing"
        yolo = "format" not in raw and "names" in raw and "train" in raw
        near = difflib.get_close_matches("format", map(str, raw), 1) if "format" not in raw else []
        hint = f"did you mean 'format' by {near[0]!r}?" if near else None
        if yolo:
            hint = f"a data.yaml of YOLO goes into a data file: 'format: yolo' and 'config: {path.name}'"
        raise DataError(f"{path}: format", f"one of {', '.join(FORMATS)}", received, hint)
    try:
        datafile = kind.model_validate(raw)
    except ValidationError as problem:
        raise explain(problem, str(path), DataError, kind) from problem
    return datafile.located(path)


def datafile_schema() -> dict[str, Any]:
    """JSON Schema of a data file of any format."""
    kinds: Any = reduce(or_, FORMATS.values())
    schema = TypeAdapter(Annotated[kinds, Field(discriminator="format")]).json_schema()
    for kind in FORMATS.values():  # pydantic counts what has a default as optional; here it tells the formats apart
        part = schema["$defs"][kind.__name__]
        part["required"] = ["format", *part.get("required", [])]
    return schema
