"""Random datasets and predictions for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from detsearch.data.dataset import Dataset, ImageRecord
from detsearch.data.masks import RunLengths, encode
from detsearch.evaluation.predict import ImagePrediction


def record(
    image_id: int, boxes: object = (), labels: object = (), *, crowd: object = None, difficult: object = None
) -> ImageRecord:
    """An image of 640x480 with objects."""
    box = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    none = np.zeros(len(box), dtype=bool)
    return ImageRecord(
        image_id=image_id,
        path=Path(f"{image_id}.jpg"),
        width=640,
        height=480,
        boxes=box,
        labels=np.asarray(labels, dtype=np.int64).reshape(-1),
        area=(box[:, 2:] - box[:, :2]).prod(axis=1),
        crowd=none if crowd is None else np.asarray(crowd, dtype=bool),
        difficult=none if difficult is None else np.asarray(difficult, dtype=bool),
    )


def dataset(*records: ImageRecord, classes: int = 2) -> Dataset:
    names = tuple(f"class{k}" for k in range(classes))
    return Dataset(name="case", split="val", classes=names, category_ids=tuple(range(classes)), records=records)


def prediction(image_id: int, boxes: object = (), scores: object = (), labels: object = ()) -> ImagePrediction:
    return ImagePrediction(
        image_id,
        np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        np.asarray(scores, dtype=np.float64).reshape(-1),
        np.asarray(labels, dtype=np.int64).reshape(-1),
    )


def perfect(data: Dataset, score: float = 0.9) -> list[ImagePrediction]:
    return [prediction(r.image_id, r.boxes, np.full(len(r.labels), score), r.labels) for r in data.records]


@st.composite
def cases(draw: st.DrawFn, *, objects: int = 8, extra: int = 12) -> tuple[Dataset, list[ImagePrediction]]:
    """Few classes and few distinct scores, so that ties are common; boxes from less than a pixel to most of the image;
    crowds and difficult objects; images without objects, without detections, and missing from the predictions."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, classes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    crowded, hard = draw(st.sampled_from([0.0, 0.3])), draw(st.sampled_from([0.0, 0.3]))
    tied = draw(st.booleans())
    records, predictions = [], []
    for image_id in rng.choice(10_000, images, replace=False).tolist():
        count = int(rng.integers(0, objects + 1)) if rng.random() < 0.8 else 0
        boxes = _boxes(rng, count)
        labels = rng.integers(0, classes, count)
        records.append(
            record(image_id, boxes, labels, crowd=rng.random(count) < crowded, difficult=rng.random(count) < hard)
        )
        if rng.random() < 0.15:
            continue
        repeats = int(rng.choice([0, 1, 1, 1, 2]))
        near = np.repeat(boxes, repeats, axis=0) + rng.normal(0, rng.choice([0, 2, 20]), (count * repeats, 4))
        near = np.concatenate([np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:])], axis=1)
        found = np.concatenate([near, _boxes(rng, int(rng.integers(0, extra)))])
        scores = rng.integers(0, 4, len(found)) / 4 if tied else rng.random(len(found))
        right = np.concatenate([np.repeat(labels, repeats), rng.integers(0, classes, len(found) - len(near))])
        order = np.argsort(-scores, kind="stable")
        predictions.append(prediction(image_id, found[order], scores[order], right[order]))
    return dataset(*records, classes=classes), predictions


@st.composite
def mask_cases(draw: st.DrawFn) -> tuple[Dataset, list[ImagePrediction]]:
    """`cases` with a mask in every box: blobs with holes, some of them empty where they were found; with ratings of
    masks, or without."""
    data, predictions = draw(cases())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rated = draw(st.booleans())
    records = tuple(
        replace(r, segmentations=_blobs(rng, r.boxes, 0.0), area=r.area * rng.uniform(0.3, 1)) for r in data.records
    )
    found = [
        replace(
            p,
            masks=_blobs(rng, p.boxes, 0.1),
            mask_scores=rng.integers(0, 4, len(p)) / 4 if rated else None,
        )
        for p in predictions
    ]
    return replace(data, records=records), found


def with_masks(data: Dataset) -> Dataset:
    """Every object fills its box."""
    records = (replace(r, segmentations=tuple(_filled(box) for box in r.boxes)) for r in data.records)
    return replace(data, records=tuple(records))


def _blobs(rng: np.random.Generator, boxes: np.ndarray, empty: float) -> tuple[RunLengths, ...]:
    """An ellipse in each box, every second one with a hole."""
    return tuple(
        _filled(box, round_=True, hole=bool(rng.random() < 0.5), empty=bool(rng.random() < empty)) for box in boxes
    )


def _filled(box: np.ndarray, *, round_: bool = False, hole: bool = False, empty: bool = False) -> RunLengths:
    x1, y1 = (int(np.clip(value, 0, side - 1)) for value, side in zip(box[:2], (640, 480), strict=True))
    x2, y2 = (
        int(np.clip(np.ceil(value), low + 1, side))
        for value, low, side in zip(box[2:], (x1, y1), (640, 480), strict=True)
    )
    v, u = np.meshgrid(np.linspace(-1, 1, y2 - y1), np.linspace(-1, 1, x2 - x1), indexing="ij")
    radius = u * u + v * v if round_ else np.zeros_like(u)
    inside = (radius <= 1.2) & ((radius >= 0.2) | (not hole))
    return encode(inside & (not empty), x1, y1, (640, 480))


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(0, 400, (count, 2))
    size = np.exp(rng.uniform(np.log(0.3), np.log(300), (count, 2)))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32).astype(np.float64)
