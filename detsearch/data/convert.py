"""Writes a dataset in another format, with its images and a data file that can be used at once.

What the other format has no place for is found by reading what was written and comparing, not declared.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from PIL import Image

from detsearch.data import images
from detsearch.data.datafile import load_datafile
from detsearch.data.dataset import Dataset, ImageRecord
from detsearch.data.defects import Action, Findings, Kind
from detsearch.data.formats import WRITERS
from detsearch.data.formats.base import DataFile
from detsearch.errors import ResourceError
from detsearch.files import new_folder

DATA_FILE: Final = "dataset.yaml"
SAME: Final = 0.05
"""Pixels by which a corner may differ, after rounding, in a box that was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What was written, in numbers by split, and what was not: `lost` counts what the format has no place for, by its
    name; `mended` the defects that were dealt with in reading."""

    datafile: str
    images: Mapping[str, int]
    boxes: Mapping[str, int]
    lost: Mapping[str, int]
    mended: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For reading."""
        for split, count in self.images.items():
            yield f"{split}: {count} images, {self.boxes[split]} boxes"
        for name, counted in (("defects of the original", self.mended), ("not kept", self.lost)):
            if counted:
                yield f"{name}: {', '.join(f'{count} {what}' for what, count in counted.items())}"
        yield f"data file: {self.datafile}"


def convert(datafile: DataFile, to: str, folder: Path, *, splits: Sequence[str] = (), link: bool = False) -> Conversion:
    """Write `splits` of a data file (all, if none are named) in the format `to` into `folder`, which is new or empty
    and holds either everything in the end or nothing.

    Images are copied, or with `link` shared with the originals (hard links: one file with two names); those that are
    no files, or have no ending of an image, are saved as PNG. DataError for data that cannot be used, RecipeError for a
    folder that holds something, ResourceError for what the disk refuses.
    """
    sets: list[Dataset] = []
    mended: Counter[str] = Counter()
    for split in dict.fromkeys(splits or datafile.splits):
        dataset, defects = datafile.sound(split, masks=True, tolerated=(Action.MASK_ERROR,))
        sets.append(dataset)
        mended.update(f"{defect.kind}" for defect in defects if defect.kind is not Kind.MISSING_MASK)
    classes = sets[0].classes
    names = _file_names(record for dataset in sets for record in dataset.records)
    writer = WRITERS[to]
    with new_folder(folder) as place:
        written = {}
        for dataset in sets:
            target = place / writer.images.format(split=dataset.split)
            target.mkdir(parents=True, exist_ok=True)
            for record in dataset.records:
                _put(record, target / names[record.path], link)
            written[dataset.split] = writer.write(dataset, [names[r.path] for r in dataset.records], place)
        content = {"format": to, "root": ".", **writer.settings, "classes": list(classes), "splits": written}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (place / DATA_FILE).write_text(text, encoding="utf-8")
        again = load_datafile(place / DATA_FILE)
        read = [again.read(dataset.split, Findings(masks=True)) for dataset in sets]
    return Conversion(
        datafile=str(folder / DATA_FILE),
        images={dataset.split: len(dataset) for dataset in read},
        boxes={dataset.split: sum(len(record.labels) for record in dataset.records) for dataset in read},
        lost=_lost(sets, read, names),
        mended=mended,
    )


def _file_names(records: Iterable[ImageRecord]) -> dict[Path, str]:
    """A file name for each image by its path, no two of which differ in nothing but case and ending."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for record in records:
        if record.path in names:
            continue
        stem = re.sub(r"[^\w.-]+", "_", record.path.stem).strip(".") or "image"
        number = 1
        while (name := stem if number == 1 else f"{stem}_{number}").casefold() in taken:
            number += 1
        taken.add(name.casefold())
        suffix = record.path.suffix.lower()
        names[record.path] = name + (suffix if record.path.is_file() and suffix in images.SUFFIXES else ".png")
    return names


def _put(record: ImageRecord, target: Path, link: bool) -> None:
    """The image of a record, at another place."""
    if target.exists():  # of another split, whose images lie in the same folder
        return
    if not record.path.is_file() or target.suffix != record.path.suffix.lower():
        Image.fromarray(record.load().permute(1, 2, 0).numpy()).save(target)
    elif not link:
        shutil.copyfile(record.path, target)
    else:
        try:
            os.link(os.path.realpath(record.path), target)
        except OSError as problem:
            hint = "copy the images instead" if problem.errno in (errno.EXDEV, errno.EPERM) else None
            where, reason = str(record.path), problem.strerror
            raise ResourceError(where, "an image that can be linked to", reason, hint) from problem


def _lost(sets: Sequence[Dataset], read: Sequence[Dataset], names: Mapping[Path, str]) -> Counter[str]:
    """How often something of the records is not the same in what was written."""
    lost: Counter[str] = Counter()
    for old, new in zip(sets, read, strict=True):
        by_name = {record.path.name: record for record in new.records}
        for record in old.records:
            _compare(record, by_name[names[record.path]], lost)
    categories = zip(sets[0].category_ids, read[0].category_ids, strict=True)
    lost["category ids"] += sum(a != b for a, b in categories)
    return +lost  # without what was never counted


def _compare(old: ImageRecord, new: ImageRecord, lost: Counter[str]) -> None:
    kept, found = _pairs(old, new)
    gone = np.ones(len(old.labels), dtype=np.bool_)
    gone[kept] = False
    lost["crowd regions"] += int((gone & old.crowd).sum())
    lost["difficult objects"] += int((gone & old.difficult & ~old.crowd).sum())
    lost["boxes"] += int((gone & old.targets).sum())
    lost["crowd flags"] += int((old.crowd[kept] & ~new.crowd[found]).sum())
    lost["difficult flags"] += int((old.difficult[kept] & ~new.difficult[found]).sum())
    lost["masks"] += int((old.outlined()[kept] & ~new.outlined()[found]).sum())
    lost["areas"] += int((~np.isclose(old.area[kept], new.area[found], rtol=0.01, atol=0.01)).sum())
    lost["image ids"] += old.image_id != new.image_id


def _pairs(old: ImageRecord, new: ImageRecord) -> tuple[list[int], list[int]]:
    """Positions of the objects that stand in both: labels and boxes are the same, and so is the order."""
    kept: list[int] = []
    for i, (label, box) in enumerate(zip(old.labels, old.boxes, strict=True)):
        j = len(kept)
        if j < len(new.labels) and label == new.labels[j] and np.abs(box - new.boxes[j]).max() <= SAME:
            kept.append(i)
    return kept, list(range(len(kept)))
