"""Looks at everything in a dataset before time is spent on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detsearch.data.datafile import DataFile
from detsearch.data.dataset import Dataset, require_same_classes
from detsearch.data.defects import Action, Defect, Kind
from detsearch.errors import DataError

SMALL, MEDIUM = 32**2, 96**2  # upper ends in pixels of area, of the image as stored (COCO's definition)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """What a split holds once its defects are dealt with.

    `boxes` counts all, crowd regions and difficult ones included, `masks` those of them that have one; `per_class` in
    the order of the labels; `sizes` are COCO's small, medium, large.
    """

    images: int
    images_without_boxes: int
    boxes: int
    masks: int
    crowd: int
    difficult: int
    per_class: Mapping[str, int]
    sizes: Mapping[str, int]
    defects: tuple[Defect, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """Of a whole data file, by split."""

    file: str
    splits: Mapping[str, SplitReport]

    @property
    def usable(self) -> bool:
        """Whether every split can be loaded, if not for masks."""
        return not any(defect.action is Action.ERROR for split in self.splits.values() for defect in split.defects)

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "usable": self.usable, "splits": {k: asdict(v) for k, v in self.splits.items()}}

    def lines(self) -> Iterator[str]:
        """For reading: counts, then defects by what is done about them."""
        for name, split in self.splits.items():
            sizes = ", ".join(f"{count} {size}" for size, count in split.sizes.items())
            masks = f", {split.masks} masks" if split.masks else ""
            bare = f"{split.images_without_boxes} without boxes"
            yield f"{name}: {split.images} images ({bare}), {split.boxes} boxes{masks}"
            yield f"  sizes: {sizes}; crowd {split.crowd}, difficult {split.difficult}"
            yield f"  classes: {', '.join(f'{label} {count}' for label, count in split.per_class.items())}"
            if split.defects:
                done = Counter(f"{defect.kind}: {defect.action}" for defect in split.defects)
                yield f"  defects: {', '.join(f'{count} {what}' for what, count in done.items())}"
            yield from (f"    {defect}" for defect in split.defects)


def check(datafile: DataFile) -> CheckReport:
    """Read all splits and decode every image. Whatever is wrong with the data is not raised, but in the report."""
    splits: dict[str, SplitReport] = {}
    first: Dataset | None = None
    for name in datafile.splits:
        try:
            dataset, defects = datafile.inspect(name, decode=True, masks=True)
            if not dataset.records:
                defects.append(Defect(Kind.UNUSABLE_SPLIT, f"{datafile.where}: splits.{name}", "empty", Action.ERROR))
            if first is not None:
                require_same_classes(first, dataset)
            first = first or dataset.subset(())
        except DataError as problem:
            defects = [Defect(Kind.UNUSABLE_SPLIT, problem.where, str(problem), Action.ERROR)]
            dataset = Dataset(name=datafile.name, split=name, classes=(), category_ids=(), records=())
        splits[name] = _counted(dataset, defects)
    return CheckReport(file=datafile.where, splits=splits)


def _counted(dataset: Dataset, defects: list[Defect]) -> SplitReport:
    records = dataset.records
    labels = np.concatenate([np.zeros(0, np.int64), *(record.labels for record in records)])
    area = np.concatenate([np.zeros(0, np.float32), *(record.area for record in records)])
    counts = np.bincount(labels, minlength=len(dataset.classes))
    return SplitReport(
        images=len(records),
        images_without_boxes=sum(len(record.labels) == 0 for record in records),
        boxes=len(labels),
        masks=int(sum(record.outlined().sum() for record in records)),
        crowd=int(sum(record.crowd.sum() for record in records)),
        difficult=int(sum(record.difficult.sum() for record in records)),
        per_class={name: int(count) for name, count in zip(dataset.classes, counts, strict=True)},
        sizes={
            "small": int((area < SMALL).sum()),
            "medium": int(((area >= SMALL) & (area < MEDIUM)).sum()),
            "large": int((area >= MEDIUM).sum()),
        },
        defects=tuple(defects),
    )
