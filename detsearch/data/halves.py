"""Two disjoint halves of a dataset, for searches that learn weights on one and choices on the other."""

from __future__ import annotations

import numpy as np

from detsearch.data.dataset import Dataset
from detsearch.errors import DataError


def halves(dataset: Dataset, seed: int, *, least: int) -> tuple[Dataset, Dataset]:
    """The images in two halves, drawn with `seed`; of an odd number the first has one more. No image file stands in
    both, whatever the annotations call it: an image that is listed twice goes to one half, twice.

    DataError where a half would have fewer than `least` images, or no object to learn from.
    """
    files: dict[object, list[int]] = {}
    for position, record in enumerate(dataset.records):
        files.setdefault(record.path.resolve(), []).append(position)
    groups = list(files.values())
    order = np.random.default_rng(np.random.SeedSequence([seed, len(groups)])).permutation(len(groups))
    middle = (len(groups) + 1) // 2
    parts = [sorted(p for i in some for p in groups[i]) for some in (order[:middle], order[middle:])]
    where = f"{dataset.name}: split {dataset.split}"
    if (fewest := min(map(len, parts))) < least:
        raise DataError(
            where, f"two halves of {least} images or more (a batch each)", f"{fewest} in one", "lower the batch"
        )
    first, second = (dataset.subset(part) for part in parts)
    for half in (first, second):
        if not any(record.targets.any() for record in half.records):
            raise DataError(where, "objects to learn from in both halves", "none in one", "take another seed or split")
    return first, second


def missing_classes(dataset: Dataset) -> tuple[str, ...]:
    """The names of classes of which the images hold no object to learn from."""
    found = {int(label) for record in dataset.records for label in record.labels[record.targets]}
    return tuple(name for label, name in enumerate(dataset.classes) if label not in found)
