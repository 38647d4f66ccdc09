"""What a runtime answers on a whole split, in pixels of the original images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detsearch.cost.device_lock import shared
from detsearch.data.dataset import ImageRecord
from detsearch.data.masks import RunLengths
from detsearch.errors import DataError
from detsearch.evaluation.masks import paste
from detsearch.nn.structures import Detections, ImageBatch
from detsearch.runtime.base import Runtime


@dataclass(frozen=True, slots=True, eq=False)
class ImagePrediction:
    """The detections of one image, best first.

    `boxes` (N, 4) float64 x1 y1 x2 y2 in pixels of the original image and inside it, `scores` (N,) float64, `labels`
    (N,) int64 in 0..C-1. From a network with a mask branch, the N `masks` of the original image, and `mask_scores`
    (N,) float64 where it rates masks.
    """

    image_id: int
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: tuple[RunLengths, ...] | None = None
    mask_scores: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.scores)


def predict(
    runtime: Runtime, loader: Iterable[tuple[ImageBatch, list[ImageRecord]]], *, masks: bool = True
) -> list[ImagePrediction]:
    """One ImagePrediction per image of `loader` (an `eval_loader`), in its order; with the masks, if the network gives
    any and `masks` asks for them.

    Holds the device shared, a batch at a time, so that a latency is measured between batches and not beside one.
    """
    found: list[ImagePrediction] = []
    for images, records in loader:
        with shared(runtime.device):
            detections = runtime(images)
            if not masks:
                detections = replace(detections, masks=None, mask_scores=None)
            detections = detections.to("cpu")
        found += to_original(detections, images.sizes, records)
    return found


def to_original(detections: Detections, sizes: Tensor, records: list[ImageRecord]) -> list[ImagePrediction]:
    """Detections of a batch in pixels of the network's input -> in pixels of the original images, clipped to them.

    `sizes` (B, 2) are the fitted heights and widths. Fitting rounds each side to whole pixels, so the two axes have
    slightly different factors, and each is undone by its own.
    """
    boxes, scores, labels, valid = (
        tensor.cpu().numpy()
        for tensor in (detections.boxes.double(), detections.scores.double(), detections.labels, detections.valid)
    )
    fitted = sizes.cpu().numpy()[:, [1, 0, 1, 0]].astype(np.float64)
    original = np.array([[r.width, r.height, r.width, r.height] for r in records], dtype=np.float64)
    boxes = np.clip(boxes * (original / fitted)[:, None], 0, original[:, None])
    rated = None if detections.mask_scores is None else detections.mask_scores.double().cpu().numpy()
    found = []
    for i, record in enumerate(records):
        kept = valid[i]
        masks = None
        if detections.masks is not None:
            masks = paste(detections.masks[i][detections.valid[i]].cpu(), boxes[i][kept], record.width, record.height)
        mask_scores = None if rated is None else rated[i][kept]
        found.append(
            ImagePrediction(record.image_id, boxes[i][kept], scores[i][kept], labels[i][kept], masks, mask_scores)
        )
    return found


def check_predictions(image_ids: Iterable[int], predictions: Iterable[ImagePrediction], num_classes: int) -> None:
    """Refuse predictions that do not belong to a dataset; DataError names the image.

    An image may be missing (nothing was detected), but none may be unknown or come twice, every label must be one of
    the dataset's, and every number finite.
    """
    known, seen = set(image_ids), set[int]()
    for prediction in predictions:
        where = f"predictions of image {prediction.image_id}"
        if prediction.image_id not in known:
            raise DataError(
                where, f"one of the dataset's {len(known)} image ids", hint="evaluate the split they were made on"
            )
        if prediction.image_id in seen:
            raise DataError(where, "one entry per image", "a second one")
        seen.add(prediction.image_id)
        unknown = sorted(set(prediction.labels.tolist()) - set(range(num_classes)))
        if unknown:
            raise DataError(where, f"labels in 0..{num_classes - 1}", str(unknown[0]))
        ratings = prediction.scores if prediction.mask_scores is None else prediction.mask_scores
        if not all(np.isfinite(values).all() for values in (prediction.boxes, prediction.scores, ratings)):
            raise DataError(where, "finite boxes and scores", "NaN or infinity")
