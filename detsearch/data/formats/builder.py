"""Turns the objects of one image, as a file states them, into an ImageRecord of sound boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detsearch.data.dataset import ImageRecord
from detsearch.data.defects import Action, Findings, Kind
from detsearch.data.masks import Segmentation, read_segmentation

MAX_NUMBER = 1e9
ROUNDING = 0.1  # pixels a box may stand out of its image without being called clipped


class RecordBuilder:
    """Collects the boxes of one image; defective ones go to `findings`."""

    def __init__(self, *, image_id: int, path: Path, width: int, height: int, findings: Findings) -> None:
        self.image_id, self.path, self.width, self.height = image_id, path, width, height
        self._findings = findings
        self._boxes: list[tuple[float, float, float, float]] = []
        self._labels: list[int] = []
        self._areas: list[float] = []
        self._crowd: list[bool] = []
        self._difficult: list[bool] = []
        self._segmentations: list[Segmentation | None] = []

    def add(
        self,
        box: tuple[float, float, float, float],
        label: int,
        *,
        where: str,
        area: float | None = None,
        crowd: bool = False,
        difficult: bool = False,
        segmentation: Segmentation | None = None,
    ) -> None:
        """One object with finite corners x1, y1, x2, y2. Without `area` the box's own is taken, after clipping."""
        x1, y1, x2, y2 = box
        stated = ", ".join(f"{value:g}" for value in box)
        if x2 <= x1 or y2 <= y1:
            self._findings.note(Kind.NO_AREA, where, f"corners {stated}", Action.SKIPPED_BOX)
            return
        clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(self.width)), min(y2, float(self.height)))
        detail = f"corners {stated} in {self.width}x{self.height} pixels"
        exact = tuple(np.asarray(clipped, dtype=np.float32).tolist())  # a box can lose its area to rounding as well
        if exact[2] <= exact[0] or exact[3] <= exact[1]:
            self._findings.note(Kind.OUTSIDE, where, detail, Action.SKIPPED_BOX)
            return
        if max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > ROUNDING:
            self._findings.note(Kind.OUTSIDE, where, detail, Action.CLIPPED_BOX)
        self._boxes.append(clipped)
        self._labels.append(label)
        self._areas.append((clipped[2] - clipped[0]) * (clipped[3] - clipped[1]) if area is None else area)
        self._crowd.append(crowd)
        self._difficult.append(difficult)
        self._segmentations.append(segmentation)
        if self._findings.masks and segmentation is None:
            self._findings.without_mask.append(where)

    def outline(self, raw: object, where: str) -> Segmentation | None:
        """What stands for an outline in COCO's form; None where nothing does, or what is malformed, which goes to the
        findings."""
        try:
            return read_segmentation(raw, self.width, self.height)
        except ValueError as problem:
            self._findings.mask_fault(Kind.MALFORMED_MASK, where, str(problem))
            return None

    def record(self) -> ImageRecord:
        return ImageRecord(
            image_id=self.image_id,
            path=self.path,
            width=self.width,
            height=self.height,
            boxes=np.asarray(self._boxes, dtype=np.float32).reshape(-1, 4),
            labels=np.asarray(self._labels, dtype=np.int64),
            area=np.asarray(self._areas, dtype=np.float32),
            crowd=np.asarray(self._crowd, dtype=np.bool_),
            difficult=np.asarray(self._difficult, dtype=np.bool_),
            segmentations=None if all(s is None for s in self._segmentations) else tuple(self._segmentations),
        )


def finite(value: object) -> float | None:
    """`value` as a float if it is a finite number of a size that pixels can have, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < MAX_NUMBER else None  # which a NaN is not, nor an infinity
