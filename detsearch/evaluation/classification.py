"""How often a classifier is right: top-1 and top-5 accuracy (Russakovsky et al., "ImageNet Large Scale Visual
Recognition Challenge", IJCV 2015, sec. 4.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from detsearch.cost.device_lock import shared
from detsearch.nn.classifier import Classifier
from detsearch.nn.structures import ImageBatch


@dataclass(frozen=True, slots=True)
class TopAccuracy:
    """Shares, in 0..1, of images whose class is the first, or among the first five, that the classifier gives. Where
    there are at most five classes the second is 1."""

    top1: float
    top5: float

    def values(self) -> dict[str, float]:
        """Both by name."""
        return asdict(self)


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) int64: how many classes come before the right one (`labels`) in (B, C) `logits`. Of equal ones the one with
    the lower label comes first, as for argmax; an image whose right class has no number has them all before it."""
    own = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    beaten = (own > logits) | ((own == logits) & (labels[:, None] <= classes))
    return (~beaten).sum(dim=1)


def classify(classifier: Classifier, loader: Iterable[tuple[ImageBatch, Tensor]], device: str) -> TopAccuracy:
    """Accuracy over the images of `loader`, in float32. `classifier` is moved to `device` and put into eval mode; who
    trains it on calls ``train()`` again. The device is held shared, a batch at a time."""
    layout = torch.channels_last
    classifier.to(device).to(memory_format=layout).eval()
    right = [0, 0]
    count = 0
    for images, labels in loader:
        with shared(device), torch.inference_mode():
            placed = images.to(device, non_blocking=True)
            placed = ImageBatch(placed.pixels.contiguous(memory_format=layout), placed.sizes)
            before = ranks(classifier.logits(placed), labels.to(device, non_blocking=True))
            hits = torch.stack([(before < k).sum() for k in (1, 5)]).tolist()
        right = [total + found for total, found in zip(right, hits, strict=True)]
        count += len(labels)
    assert count, "a split holds an image at least"
    return TopAccuracy(right[0] / count, right[1] / count)
