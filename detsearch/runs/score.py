"""How good a detector is on a dataset, by both conventions, and its masks by COCO's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from detsearch.data.dataset import Dataset
from detsearch.data.loader import eval_loader
from detsearch.evaluation.coco import Accuracy, coco_ap, coco_mask_ap
from detsearch.evaluation.predict import predict
from detsearch.evaluation.voc import Convention, VocAccuracy, voc_ap
from detsearch.runtime.base import Runtime
from detsearch.types import InputSize

V = TypeVar("V")


@dataclass(frozen=True)
class Score:
    """COCO's 12 numbers and VOC's AP50, whole and by class; COCO's of the `masks`, where there are any."""

    coco: Accuracy
    voc: VocAccuracy
    masks: Accuracy | None = None

    def values(self) -> dict[str, float]:
        """The defined figures by name; those of masks begin with ``mask_``."""
        masks = {} if self.masks is None else _of_masks(self.masks.values())
        return {**self.coco.values(), **self.voc.values(), **masks}

    def to_json(self) -> dict[str, Any]:
        """All figures, None where undefined."""
        voc = {"voc_ap50": self.voc.ap50, "voc_ap50_per_class": dict(self.voc.per_class)}
        masks = {} if self.masks is None else _of_masks(asdict(self.masks))
        return {**asdict(self.coco), **voc, "voc_convention": self.voc.convention, **masks}


def _of_masks(figures: dict[str, V]) -> dict[str, V]:
    return {f"mask_{name}": value for name, value in figures.items()}


def score(
    runtime: Runtime, size: InputSize, dataset: Dataset, *, batch: int, workers: int = 0, voc: Convention = "area"
) -> Score:
    """Let a runtime answer on every image of `dataset`, fitted to `size`, and compare: masks too, where both the
    dataset and the answers have them."""
    masks = dataset.has_masks
    found = predict(runtime, eval_loader(dataset, size, batch=batch, workers=workers), masks=masks)
    masks = masks and all(prediction.masks is not None for prediction in found)
    return Score(
        coco_ap(dataset, found),
        voc_ap(dataset, found, convention=voc),
        coco_mask_ap(dataset, found) if masks else None,
    )
