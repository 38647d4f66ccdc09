"""Average precision at IoU 0.5 as the Pascal VOC challenges define it (Everingham et al., "The Pascal Visual Object
Classes (VOC) Challenge", 2010, section 4.2, and "... A Retrospective", 2015, section 4.1).

Detections of a class are taken best first over all images. Each looks at the object of its class that it overlaps
most: from the IoU threshold on, it is right if that object was not claimed before and wrong if it was; below, it is
wrong. Objects marked difficult (and COCO's crowds) neither count as objects nor do detections that fall on them.

The devkit adds 1 to every width and height, because VOC's corners are pixel numbers that include the last pixel. Here
nothing is added: the reader has moved xmin and ymin down by 1, so that x2 - x1 is already xmax - xmin + 1. That is the
devkit's IoU to the last digit, and it also holds for boxes of sets that were never in pixel numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detsearch.evaluation.predict import ImagePrediction, check_predictions

if TYPE_CHECKING:
    from detsearch.data.dataset import Dataset

Convention: TypeAlias = Literal["area", "11points"]
"""How a curve becomes a number. ``area``: the area under it, since VOC 2010. ``11points``: the mean of the best
precision at recall 0, 0.1, ..., 1 or more, until VOC 2009 (so of VOC 2007, the set whose test labels are public)."""

MAX_PAIRS: Final = 1 << 20
"""Boxes compared at once: 100 MB at most, however crowded the images are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VocAccuracy:
    """`ap50` is the mean over the classes that have objects; None where undefined: no object that counts."""

    ap50: float | None
    per_class: Mapping[str, float | None]
    convention: Convention = "area"

    def values(self) -> dict[str, float]:
        """`voc_ap50` by name, nothing where it is undefined. (COCO's ap50 samples the same curve at 101 recalls.)"""
        return {} if self.ap50 is None else {"voc_ap50": self.ap50}


def voc_ap(
    dataset: Dataset, predictions: Sequence[ImagePrediction], *, iou: float = 0.5, convention: Convention = "area"
) -> VocAccuracy:
    """VOC AP of `predictions` on `dataset`; DataError for predictions that do not belong to it."""
    check_predictions((record.image_id for record in dataset.records), predictions, len(dataset.classes))
    truth, ignored = _truth(dataset)
    found = _found(dataset, predictions)
    first, counts = match(found, truth, ignored, iou)
    objects = np.bincount(truth.labels[~ignored], minlength=len(dataset.classes))
    ends = np.searchsorted(found.labels[counts], np.arange(len(objects) + 1))
    hits = first[counts]
    per_class = {
        name: average_precision(hits[ends[k] : ends[k + 1]], int(objects[k]), convention)
        for k, name in enumerate(dataset.classes)
    }
    defined = [value for value in per_class.values() if value is not None]
    return VocAccuracy(ap50=float(np.mean(defined)) if defined else None, per_class=per_class, convention=convention)


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """N boxes of many images: `images` (N,) and `labels` (N,) int64, `boxes` (N, 4) float64."""

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]

    def take(self, order: NDArray[np.int64]) -> Placed:
        return Placed(self.images[order], self.labels[order], self.boxes[order])


def match(
    found: Placed, truth: Placed, ignored: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of N detections are the first to claim an object, and which count at all: two (N,) arrays; right are those
    that are both.

    `found` has the better ones of an image and class first; `truth`, M objects, is ordered by image, then label;
    `ignored` (M,).
    """
    nearest, overlap = _nearest(found, truth)
    meets = np.flatnonzero(overlap >= threshold)
    claims = nearest[meets]
    counts = np.ones(len(overlap), dtype=np.bool_)
    counts[meets] = ~ignored[claims]
    first = np.zeros(len(overlap), dtype=np.bool_)
    first[meets[np.unique(claims, return_index=True)[1]]] = True
    return first, counts


def average_precision(hits: NDArray[np.bool_], objects: int, convention: Convention = "area") -> float | None:
    """One class's AP from whether each detection that counts is right (N,), best first; None without objects."""
    if objects == 0:
        return None
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(right) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    if convention == "11points":
        # Whole numbers: in floating point 3 / 10 would miss a recall of 0.1 * 3.
        reached = np.searchsorted(10 * right, np.arange(11) * objects)
        return float(np.append(best_from_here, 0.0)[reached].mean())
    return float(best_from_here[hits].sum() / objects)


def _truth(dataset: Dataset) -> tuple[Placed, NDArray[np.bool_]]:
    """The objects by image and label, and which of them are ignored."""
    records = dataset.records
    images = _repeated(range(len(records)), [len(record.labels) for record in records])
    labels = np.concatenate([np.zeros(0, np.int64), *(record.labels for record in records)])
    boxes = np.concatenate([np.zeros((0, 4)), *(record.boxes for record in records)])
    ignored = np.concatenate([np.zeros(0, np.bool_), *(record.difficult | record.crowd for record in records)])
    order = np.lexsort((labels, images))
    return Placed(images, labels, boxes).take(order), ignored[order]


def _found(dataset: Dataset, predictions: Sequence[ImagePrediction]) -> Placed:
    """The detections by label, best first; of equal ones, those first whose image comes first."""
    positions = {record.image_id: i for i, record in enumerate(dataset.records)}
    predictions = sorted(predictions, key=lambda prediction: positions[prediction.image_id])
    images = _repeated([positions[p.image_id] for p in predictions], [len(p) for p in predictions])
    labels = np.concatenate([np.zeros(0, np.int64), *(p.labels for p in predictions)])
    boxes = np.concatenate([np.zeros((0, 4)), *(p.boxes for p in predictions)])
    scores = np.concatenate([np.zeros(0), *(p.scores for p in predictions)])
    return Placed(images, labels, boxes).take(np.lexsort((-scores, labels)))


def _repeated(values: Sequence[int], times: Sequence[int]) -> NDArray[np.int64]:
    return np.repeat(np.asarray(values, dtype=np.int64), np.asarray(times, dtype=np.int64))


def _nearest(found: Placed, truth: Placed) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each of N detections the object of its image and class that it overlaps most, the first of equals, and that
    IoU: two (N,) arrays. Where there is no such object the IoU is -1."""
    classes = 1 + max(found.labels.max(initial=0), truth.labels.max(initial=0))
    place, places = found.images * classes + found.labels, truth.images * classes + truth.labels
    first = np.searchsorted(places, place)
    number = np.searchsorted(places, place, side="right") - first
    nearest, best = np.zeros(len(place), dtype=np.int64), np.full(len(place), -1.0)
    rows = np.flatnonzero(number)
    ends = np.cumsum(number[rows])
    start = 0
    while start < len(rows):  # blocks of at most MAX_PAIRS pairs, and at least one detection
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + MAX_PAIRS, side="right")))
        block, times = rows[start:stop], number[rows[start:stop]]
        offsets = np.cumsum(times) - times
        objects = np.arange(times.sum()) + np.repeat(first[block] - offsets, times)
        overlap = _iou(found.boxes[np.repeat(block, times)], truth.boxes[objects])
        best[block] = np.maximum.reduceat(overlap, offsets)
        most = np.where(overlap == np.repeat(best[block], times), objects, len(places))
        nearest[block] = np.minimum.reduceat(most, offsets)
        start = stop
    return nearest, best


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU (N,) of boxes (N, 4) and (N, 4), pair by pair; 0 where neither has an area, or one beyond all floats."""
    inter = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - inter
    sound = (union > 0) & np.isfinite(union)
    overlap: NDArray[np.float64] = np.divide(inter, union, out=np.zeros_like(inter), where=sound)
    return overlap
