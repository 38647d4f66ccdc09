"""``detsearch eval`` and ``predict``: a checkpoint, put to work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detsearch.arch.code import format_detector
from detsearch.arch.spec import DetectorSpec
from detsearch.cost.latency import device_name
from detsearch.data import images
from detsearch.data.dataset import Dataset, ImageRecord
from detsearch.data.loader import eval_loader
from detsearch.errors import DataError
from detsearch.evaluation.predict import ImagePrediction, predict
from detsearch.evaluation.voc import Convention
from detsearch.runs.data import load_split
from detsearch.runs.device import resolve_device
from detsearch.runs.score import score
from detsearch.runtime.eager import EagerRuntime
from detsearch.training.checkpoint import CheckpointMeta, load_detector
from detsearch.types import InputSize


def evaluate_checkpoint(
    checkpoint: Path,
    data: str,
    split: str,
    size: InputSize | None,
    *,
    device: str,
    batch: int,
    voc: Convention = "area",
) -> dict[str, Any]:
    """Figures of a checkpoint on a split, those of boxes only, and a ``note`` that says so, where the network draws
    masks and the split has none. DataError if the split has other classes than it was trained for."""
    runtime, meta, spec = _load(checkpoint, size, device)
    masks = spec.network.has_masks
    dataset = load_split(data, split, masks)
    if dataset.classes != meta.classes:
        raise DataError(f"{data} split {split}", f"the classes {', '.join(meta.classes)}", ", ".join(dataset.classes))
    found = score(runtime, spec.input, dataset, batch=batch, voc=voc)
    return {
        "code": format_detector(spec),
        "checkpoint": str(checkpoint),
        "epochs": meta.epoch,
        "split": split,
        "images": len(dataset),
        "device": runtime.device,
        "device_name": device_name(runtime.device),
        **found.to_json(),
        **({"note": "boxes only: the split has no masks"} if masks and found.masks is None else {}),
    }


def predict_images(
    checkpoint: Path, paths: Sequence[Path], size: InputSize | None, *, device: str
) -> Iterator[tuple[Path, ImagePrediction, tuple[str, ...]]]:
    """Detections in every image of `paths`, folders searched for images, with the names of the classes; images are
    answered one by one, so that they may be of any size and number. DataError, before the first answer, names what is
    no image."""
    runtime, meta, spec = _load(checkpoint, size, device)
    found = {path: images.probe(path) for path in _images(paths)}
    for number, (path, (width, height)) in enumerate(found.items()):
        record = ImageRecord(
            image_id=number,
            path=path,
            width=width,
            height=height,
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int64),
            area=np.zeros(0, np.float32),
            crowd=np.zeros(0, np.bool_),
            difficult=np.zeros(0, np.bool_),
        )
        single = Dataset(
            name=path.name,
            split="",
            classes=meta.classes,
            category_ids=tuple(range(len(meta.classes))),
            records=(record,),
        )
        yield path, predict(runtime, eval_loader(single, spec.input, batch=1, workers=0))[0], meta.classes


def _load(checkpoint: Path, size: InputSize | None, device: str) -> tuple[EagerRuntime, CheckpointMeta, DetectorSpec]:
    detector, meta = load_detector(checkpoint)
    spec = meta.spec(size)
    return EagerRuntime(detector, resolve_device(device)), meta, spec


def _images(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        try:
            inside = sorted(child for child in path.iterdir() if child.suffix.lower() in images.SUFFIXES)
        except OSError as error:
            raise DataError(str(path), "a readable folder", error.strerror) from None
        if not inside:
            raise DataError(str(path), f"images in the folder ({', '.join(images.SUFFIXES)})", "none")
        yield from inside
