"""How good a detector is on a dataset, by both conventions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from detsearch.data.dataset import Dataset
from detsearch.data.loader import eval_loader
from detsearch.evaluation.coco import Accuracy, coco_ap
from detsearch.evaluation.predict import predict
from detsearch.evaluation.voc import Convention, VocAccuracy, voc_ap
from detsearch.runtime.base import Runtime
from detsearch.types import InputSize


@dataclass(frozen=True)
class Score:
    """COCO's 12 numbers and VOC's AP50, whole and by class."""

    coco: Accuracy
    voc: VocAccuracy

    def values(self) -> dict[str, float]:
        """The defined figures by name."""
        return {**self.coco.values(), **self.voc.values()}

    def to_json(self) -> dict[str, Any]:
        """All figures, None where undefined."""
        voc = {"voc_ap50": self.voc.ap50, "voc_ap50_per_class": dict(self.voc.per_class)}
        return {**asdict(self.coco), **voc, "voc_convention": self.voc.convention}


def score(
    runtime: Runtime, size: InputSize, dataset: Dataset, *, batch: int, workers: int = 0, voc: Convention = "area"
) -> Score:
    """Let a runtime answer on every image of `dataset`, fitted to `size`, and compare."""
    found = predict(runtime, eval_loader(dataset, size, batch=batch, workers=workers))
    return Score(coco_ap(dataset, found), voc_ap(dataset, found, convention=voc))
