"""COCO's average precision and recall for boxes, and for masks: the 12 numbers of the COCO challenge and AP per class.

The matching is hotcoco's, a fast equal of pycocotools, against which the tests hold it. What follows from COCO's rules:
at most the 100 best detections of an image and class count; a crowd box may be matched any number of times,
by the share of the detection inside it, and neither it nor its matches count; sizes follow the annotation's `area`
(small below 32^2, large above 96^2 pixels). COCO knows no `difficult`: such objects count like the others. Masks are
compared pixel by pixel and ranked by `mask_scores` where there are any; a detection is as large as its mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import hotcoco
import numpy as np
from hotcoco import COCO
from numpy.typing import NDArray

from detsearch.data.masks import to_runs
from detsearch.evaluation.predict import ImagePrediction, check_predictions

if TYPE_CHECKING:
    from detsearch.data.dataset import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """COCO's 12 numbers, of boxes or of masks, in 0..1. None where undefined: no object of that size, or none at all
    (COCO writes -1)."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar_1: float | None
    ar_10: float | None
    ar_100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    per_class: Mapping[str, float | None]  # AP by class name

    def values(self) -> dict[str, float]:
        """The defined ones of the 12 numbers, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "per_class"}
        return {name: value for name, value in named.items() if value is not None}


def coco_ap(dataset: Dataset, predictions: Sequence[ImagePrediction]) -> Accuracy:
    """COCO AP of `predictions` on `dataset`; images without a prediction count as images with no detection.

    Raises DataError for predictions that do not belong to the dataset (unknown or repeated image, unknown label, a
    number that is not finite).
    """
    check_predictions((record.image_id for record in dataset.records), predictions, len(dataset.classes))
    truth = _truth(dataset)
    return _accuracy(dataset.classes, truth, truth.load_res(_boxes(predictions)), "bbox")


def coco_mask_ap(dataset: Dataset, predictions: Sequence[ImagePrediction]) -> Accuracy:
    """COCO AP of the masks of `predictions` on a `dataset` whose objects all have one; else as `coco_ap`."""
    check_predictions((record.image_id for record in dataset.records), predictions, len(dataset.classes))
    outlines: list[dict[str, Any] | list[list[float]]] = [
        to_runs(outline, record.width, record.height).to_coco()
        for record in dataset.records
        for outline in record.segmentations or ()
        if outline is not None
    ]
    truth = _truth(dataset, outlines)
    return _accuracy(dataset.classes, truth, truth.load_res(_masks(predictions)), "segm")


def _accuracy(classes: Sequence[str], truth: COCO, found: COCO, kind: Literal["bbox", "segm"]) -> Accuracy:
    precision, recall = _match(truth, found, kind)

    def ap(iou: slice = slice(None), area: int = 0) -> float | None:
        return _mean(precision[iou, :, :, area, 2])

    def ar(area: int = 0, limit: int = 2) -> float | None:
        return _mean(recall[:, :, area, limit])

    return Accuracy(
        ap=ap(),
        ap50=ap(iou=slice(0, 1)),
        ap75=ap(iou=slice(5, 6)),
        ap_small=ap(area=1),
        ap_medium=ap(area=2),
        ap_large=ap(area=3),
        ar_1=ar(limit=0),
        ar_10=ar(limit=1),
        ar_100=ar(),
        ar_small=ar(area=1),
        ar_medium=ar(area=2),
        ar_large=ar(area=3),
        per_class={name: _mean(precision[:, :, k, 0, 2]) for k, name in enumerate(classes)},
    )


def _match(truth: COCO, found: COCO, kind: Literal["bbox", "segm"]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (T, R, K, A, M) at T = 10 IoUs, R = 101 recalls, for K classes, A = 4 sizes (all, small, medium,
    large) and M = 3 limits of detections (1, 10, 100), and recall (T, K, A, M); -1 where undefined."""
    evaluation = hotcoco.COCOeval(truth, found, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    result = evaluation.eval
    assert result is not None
    return result["precision"], result["recall"]


def _truth(dataset: Dataset, outlines: list[dict[str, Any] | list[list[float]]] | None = None) -> COCO:
    records = dataset.records
    return hotcoco.COCO.from_arrays(
        [{"id": r.image_id, "width": r.width, "height": r.height} for r in records],
        [{"id": k, "name": name} for k, name in enumerate(dataset.classes)],
        np.repeat([r.image_id for r in records], [len(r.labels) for r in records]).astype(np.int64),
        _join([r.labels for r in records], np.int64),
        _xywh(_join([r.boxes for r in records], np.float64, 4)),
        area=_join([r.area for r in records], np.float64),
        iscrowd=_join([r.crowd for r in records], np.int64),
        segmentation=outlines,
    )


def _boxes(predictions: Sequence[ImagePrediction]) -> NDArray[np.float64]:
    """Rows of image, x, y, width, height, score, label."""
    return np.column_stack(
        [
            np.repeat([p.image_id for p in predictions], [len(p) for p in predictions]).astype(np.float64),
            _xywh(_join([p.boxes for p in predictions], np.float64, 4)),
            _join([p.scores for p in predictions], np.float64),
            _join([p.labels for p in predictions], np.float64),
        ]
    )


def _masks(predictions: Sequence[ImagePrediction]) -> list[dict[str, Any]]:
    """COCO's results without boxes, which would stand for the size."""
    found = []
    for p in predictions:
        scores = p.scores if p.mask_scores is None else p.mask_scores
        rows = zip(p.labels.tolist(), scores.tolist(), p.masks or (), strict=True)
        for label, score, mask in rows:
            found.append({"image_id": p.image_id, "category_id": label, "score": score, "segmentation": mask.to_coco()})
    return found


def _join(parts: Sequence[NDArray[Any]], dtype: type[np.generic], *width: int) -> NDArray[Any]:
    """Per-image arrays as one, which may be none; `width` is the length of a row, nothing for single numbers."""
    return np.concatenate([np.zeros((0, *width)), *parts]).astype(dtype)


def _xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean of the defined values, None where none is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
