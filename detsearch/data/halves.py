"""Two disjoint halves of a dataset, for searches that learn weights on one and choices on the other."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from detsearch.data.dataset import Dataset
from detsearch.errors import DataError

SAMPLE: Final = 4096
"""Bytes from the middle of files of equal size that are looked at first: mostly they tell images apart."""


def halves(dataset: Dataset, seed: int, *, least: int) -> tuple[Dataset, Dataset]:
    """The images in two halves, drawn with `seed`; of an odd number the first has one more. No image stands in both,
    whatever the annotations call it: one that is listed twice, or lies there under two names, goes to one half, twice.

    DataError where a half would have fewer than `least` images, or no object to learn from.
    """
    paths = [record.path.resolve() for record in dataset.records]
    same = copies(dict.fromkeys(paths))
    images: dict[Path, list[int]] = {}
    for position, path in enumerate(paths):
        images.setdefault(same.get(path, path), []).append(position)
    groups = list(images.values())
    order = np.random.default_rng(np.random.SeedSequence([seed, len(groups)])).permutation(len(groups))
    middle = (len(groups) + 1) // 2
    parts = [sorted(p for i in some for p in groups[i]) for some in (order[:middle], order[middle:])]
    where = f"{dataset.name}: split {dataset.split}"
    if (fewest := min(map(len, parts))) < least:
        hint = f"lower the batch to {fewest}, or add images" if fewest else "add images: it has no two different ones"
        raise DataError(where, f"two halves of {least} images or more (a batch each)", f"{fewest} in one", hint)
    first, second = (dataset.subset(part) for part in parts)
    for half in (first, second):
        if not any(record.targets.any() for record in half.records):
            raise DataError(where, "objects to learn from in both halves", "none in one", "take another seed or split")
    return first, second


def shared_images(first: Dataset, second: Dataset) -> set[Path]:
    """The files that stand in both."""
    return {record.path.resolve() for record in first.records} & {record.path.resolve() for record in second.records}


def copies(paths: Iterable[Path]) -> dict[Path, Path]:
    """Of files with the same content, all but the first, each with the first. What is no file that can be read has no
    copies. Only files of equal size are opened, and only those read whole that also agree in their middle."""
    groups = [list(paths)]
    for key in (_size, _middle, _digest):
        groups = [alike for group in groups for alike in _alike(group, key)]
    return {path: first for first, *others in groups for path in others}


def _alike(paths: Sequence[Path], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    """Those of equal keys together, where there are several."""
    found: dict[Hashable, list[Path]] = {}
    for path in paths:
        try:
            found.setdefault(key(path), []).append(path)
        except OSError:  # whoever decodes the image says what is wrong with the file
            continue
    return [alike for alike in found.values() if len(alike) > 1]


def _size(path: Path) -> int:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise OSError("no plain file")
    return status.st_size


def _middle(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, (path.stat().st_size - SAMPLE) // 2))
        return file.read(SAMPLE)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def missing_classes(dataset: Dataset) -> tuple[str, ...]:
    """The names of classes of which the images hold no object to learn from."""
    found = {int(label) for record in dataset.records for label in record.labels[record.targets]}
    return tuple(name for label, name in enumerate(dataset.classes) if label not in found)
