"""Average precision at IoU 0.5 as the Pascal VOC challenges define it since 2010 (Everingham et al., "The Pascal
Visual Object Classes Challenge: A Retrospective", 2015, section 4.1).

Detections of a class are taken best first over all images. Each looks at the object of its class that it overlaps
most: from the IoU threshold on, it is right if that object was not claimed before and wrong if it was; below, it is
wrong. Objects marked difficult (and COCO's crowds) neither count as objects nor do detections that fall on them.
VOC's pixel boxes include both ends; in the continuous coordinates used here that is the same IoU without the `+ 1`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detsearch.evaluation.predict import ImagePrediction, check_predictions

if TYPE_CHECKING:
    from detsearch.data.dataset import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class VocAccuracy:
    """`ap50` is the mean over the classes that have objects; None where undefined: no object that counts."""

    ap50: float | None
    per_class: Mapping[str, float | None]

    def values(self) -> dict[str, float]:
        """`voc_ap50` by name, nothing where it is undefined. (COCO's ap50 samples the same curve at 101 recalls.)"""
        return {} if self.ap50 is None else {"voc_ap50": self.ap50}


def voc_ap(dataset: Dataset, predictions: Sequence[ImagePrediction], *, iou: float = 0.5) -> VocAccuracy:
    """VOC AP of `predictions` on `dataset`; DataError for predictions that do not belong to it."""
    check_predictions((record.image_id for record in dataset.records), predictions, len(dataset.classes))
    by_image = {prediction.image_id: prediction for prediction in predictions}
    scores: list[list[NDArray[np.float64]]] = [[] for _ in dataset.classes]
    right: list[list[NDArray[np.bool_]]] = [[] for _ in dataset.classes]
    objects = np.zeros(len(dataset.classes), dtype=np.int64)
    for record in dataset.records:
        labels = np.asarray(record.labels)
        ignored = np.asarray(record.difficult) | np.asarray(record.crowd)
        objects += np.bincount(labels[~ignored], minlength=len(objects))
        prediction = by_image.get(record.image_id)
        if prediction is None:
            continue
        boxes = np.asarray(record.boxes, dtype=np.float64)
        for label in np.unique(prediction.labels):
            found, there = prediction.labels == label, labels == label
            score = prediction.scores[found]
            hit, counts = match(prediction.boxes[found], score, boxes[there], ignored[there], iou)
            scores[label].append(score[counts])
            right[label].append(hit[counts])
    per_class = {
        name: average_precision(scores[k], right[k], int(objects[k])) for k, name in enumerate(dataset.classes)
    }
    defined = [value for value in per_class.values() if value is not None]
    return VocAccuracy(ap50=float(np.mean(defined)) if defined else None, per_class=per_class)


def match(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    objects: NDArray[np.float64],
    ignored: NDArray[np.bool_],
    threshold: float,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of the N detections of one class in one image are right, and which count at all: two (N,) arrays.

    `boxes` (N, 4), `scores` (N,), `objects` (M, 4), `ignored` (M,). Claims depend only on the order within an image,
    so images may be matched one by one.
    """
    right, counts = np.zeros(len(boxes), dtype=bool), np.ones(len(boxes), dtype=bool)
    if len(objects) == 0:
        return right, counts
    overlaps = pairwise_iou(boxes, objects)
    nearest = overlaps.argmax(axis=1)
    claimed = np.zeros(len(objects), dtype=bool)
    for i in np.argsort(-scores, kind="stable"):
        j = nearest[i]
        if overlaps[i, j] < threshold:
            continue
        counts[i] = not ignored[j]
        right[i] = not ignored[j] and not claimed[j]
        claimed[j] = True
    return right, counts


def pairwise_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU (N, M) of boxes (N, 4) and (M, 4); 0 between boxes without area."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    inter = np.clip(high - low, 0, None).prod(axis=2)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1)[:, None] + (b[:, 2:] - b[:, :2]).prod(axis=1) - inter
    overlap: NDArray[np.float64] = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return overlap


def average_precision(
    scores: Sequence[NDArray[np.float64]], right: Sequence[NDArray[np.bool_]], objects: int
) -> float | None:
    """The area under precision as a function of recall, precision made to fall monotonically; None without objects."""
    if objects == 0:
        return None
    if not scores:
        return 0.0
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.cumsum(np.concatenate(right)[order])
    precision = hits / np.arange(1, len(hits) + 1)
    recall = np.concatenate([[0.0], hits / objects])
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * best_from_here))
