"""Images in a folder for each class, as ImageNet is laid out: root/train/<class>/*.jpg and root/val/<class>/*.jpg."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detsearch.data import images
from detsearch.data.paths import inside
from detsearch.errors import DataError

NAMED: Final = 5
"""Classes that a message names."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LabelledImages:
    """A split of N images: `classes` by label, `labels` (N,) int64, `names` (N,) of the files as bytes, an array and no
    list of paths: a million of those would be copied into every process that loads images. `warnings` are about what
    may spoil a training, a line each."""

    root: Path
    split: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    names: NDArray[np.bytes_]
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, position: int) -> Path:
        """The file of an image."""
        label, name = int(self.labels[position]), bytes(self.names[position])
        return self.root / self.split / self.classes[label] / os.fsdecode(name)

    def check(self) -> None:
        """Read every image's header, and those whole whose file does not end as it should; DataError names the first
        one that is not sound. A training would come upon it after hours."""
        for position in range(len(self)):
            images.probe(self.path(position))


def read_split(root: Path, split: str, classes: Sequence[str] | None = None) -> LabelledImages:
    """The images of one split. Its classes are its folders, in the order of their names; or `classes`, among which its
    folders must then be. Hidden files and folders, and files that are no images by their names, are passed over.

    DataError where there is no such folder, a class that is not known, no image at all, an image outside the folders of
    classes or one deeper inside, a name that cannot be printed, or a link that leads out of `root`.
    """
    if not root.is_dir():
        received = "a file" if root.exists() else "no such folder"
        raise DataError(str(root), "a folder of images, with one of each split in it", received)
    place = inside(root, split)
    if not place.is_dir():
        there = [name for name in _listed(root) if (root / name).is_dir()]
        hint = "name the splits in the recipe's data"
        raise DataError(str(root), f"a folder {split!r}", f"folders: {_some(there) or 'none'}", hint)
    found = _class_folders(root, split)
    known = tuple(found if classes is None else classes)
    if unknown := sorted(set(found) - set(known)):
        raise DataError(str(place), "classes that are trained on", f"also {_some(unknown)}")
    if len(known) < 2:
        raise DataError(str(place), "folders of two classes or more", f"{len(known)}")
    present = set(found)
    files = [_image_names(root, split, name) if name in present else [] for name in known]
    if not any(files):
        raise DataError(str(place), f"images ({', '.join(images.SUFFIXES)}) in the folders of its classes", "none")
    empty = [name for name, own in zip(known, files, strict=True) if not own]
    return LabelledImages(
        root=root,
        split=split,
        classes=known,
        labels=np.repeat(np.arange(len(known), dtype=np.int64), [len(own) for own in files]),
        names=np.array([name for own in files for name in own], dtype=np.bytes_),
        warnings=(f"{place}: no images of {_some(empty)}",) if empty else (),
    )


def _class_folders(root: Path, split: str) -> list[str]:
    place = root / split
    found = []
    for name in _listed(place):
        path = inside(root, split, name)
        if path.is_dir():
            if not name.isprintable():
                raise DataError(str(place), "class names that can be printed", ascii(name), "rename the folder")
            found.append(name)
        elif _is_image(name):
            raise DataError(
                str(place), "images in a folder for each class", f"{name} beside them", "sort them by class"
            )
    return found


def _image_names(root: Path, split: str, label: str) -> list[bytes]:
    place = root / split / label
    found = []
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():  # to resolve every file's path takes minutes for a million of them
                    inside(root, split, label, entry.name)
                if entry.is_dir():
                    raise DataError(str(place), "images only", f"a folder {entry.name}", "put its images into this one")
                if _is_image(entry.name):
                    if not entry.is_file():
                        raise DataError(entry.path, "an image file", "a link that leads nowhere, or no file")
                    found.append(os.fsencode(entry.name))
    except OSError as problem:
        raise DataError(str(place), "a folder that can be read", problem.strerror or str(problem)) from problem
    return sorted(found)


def _listed(place: Path) -> Iterator[str]:
    try:
        names = sorted(os.listdir(place))
    except OSError as problem:
        raise DataError(str(place), "a folder that can be read", problem.strerror or str(problem)) from problem
    return (name for name in names if not name.startswith("."))


def _is_image(name: str) -> bool:
    return name.lower().endswith(images.SUFFIXES)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
