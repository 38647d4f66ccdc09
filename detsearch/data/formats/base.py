"""What every format has: a checked data file with named splits, and a reader for one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, StringConstraints

from detsearch.data.dataset import Dataset, ImageRecord, require_same_classes
from detsearch.data.defects import Action, Defect, Findings, Kind
from detsearch.errors import DataError

Name = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
OneOrMore = Annotated[
    tuple[Name, ...],
    BeforeValidator(lambda raw: (raw,) if isinstance(raw, str) else raw, json_schema_input_type=Name | list[Name]),
]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("class names that all differ")
    return names


ClassNames = Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_distinct)]
SplitName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]
"""No dot in front: folders are called so, and ``..`` would be another one."""


class DataFile(BaseModel, ABC):
    """A dataset as its small YAML file describes it. A format is a subclass, listed in `formats.FORMATS`.

    What is wrong with the data, and what is done about each:

    | defect                                                        | by default    | with ``on_defect: skip`` |
    |---------------------------------------------------------------|---------------|--------------------------|
    | image file missing, unreadable or truncated                   | error         | skipped image            |
    | size in the annotation contradicts the image file             | error         | skipped image            |
    | EXIF says that viewers turn the image **                      | kept          | kept                     |
    | path absolute, with ``..``, or a link that leaves the root    | error         | skipped image            |
    | image id (COCO), name (BDD, VOC) or path (YOLO) a second time | error         | skipped image, the later |
    | annotation file of one image not of its form, or huge         | error         | skipped image            |
    | annotation id a second time                                   | error         | skipped box, the later   |
    | annotation of an image that is not defined                    | error         | skipped box              |
    | category that is not defined                                  | error         | skipped box              |
    | box that is not four finite numbers; for YOLO, in 0..1        | error         | skipped box              |
    | box without area, box wholly outside the image                | skipped box   | skipped box              |
    | box partly outside the image (by more than 0.1 pixels)        | clipped box   | clipped box              |
    | image without boxes                                           | kept          | kept                     |
    | malformed mask; object without mask in a set that has masks   | error *       | skipped box *            |
    | split without a usable image, file that is not of its format  | error         | error                    |

    * Where masks are used; a detector of boxes is trained on such objects like on all others.
    ** Where images are decoded. Pixels are read as they are stored, so boxes of the upright image would lie wrong.

    `split` raises DataError at the first error; `inspect` lists all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    classes: ClassNames | None = Field(None, description="Class names in the order of the labels")
    on_defect: Literal["error", "skip"] = Field("error", description="What to do about images that cannot be used")
    splits: Mapping[SplitName, Any] = Field(min_length=1, description="Splits by name")
    _where: str = PrivateAttr("data file")
    _first: Dataset | None = PrivateAttr(None)  # the classes of the split read first: labels of all must agree

    @property
    def where(self) -> str:
        """The file this was read from, for messages."""
        return self._where

    @property
    def name(self) -> str:
        return Path(self._where).stem

    def located(self, path: Path) -> Self:
        """This, as read from the file `path`: relative paths in it start beside that file."""
        located = self.model_copy()
        located._where = str(path)
        return located

    def split(self, name: str, *, masks: bool = False) -> Dataset:
        """The split `name`, or several joined by ``+`` (``train+val``), every image's header and end checked; with
        ``on_defect: skip`` every image is decoded, so that what is skipped is what `data check` says. With `masks`,
        outlines are read, and where the split has any (`Dataset.has_masks`), every object has one.

        DataError for an unknown or empty split and for any defect that the class's table calls an error.
        """
        parts: list[Dataset] = []
        for part in name.split("+"):
            dataset, _ = self.sound(part, masks=masks)
            if dataset.has_masks:
                dataset = replace(dataset, records=tuple(r.only(r.outlined()) for r in dataset.records))
            parts.append(dataset)
        if masks and len({part.has_masks for part in parts}) > 1:
            bare = ", ".join(part.split for part in parts if not part.has_masks)
            raise DataError(f"{self.where}: splits {name}", "masks in every split or in none", f"none in {bare}")
        return Dataset.merge(parts)

    def sound(
        self, split: str, *, masks: bool = False, tolerated: Collection[Action] = ()
    ) -> tuple[Dataset, list[Defect]]:
        """One split as it stands in the file, and the defects that are no errors, or of an action that is `tolerated`;
        DataError as in `split`."""
        dataset, defects = self.inspect(split, decode=self.on_defect == "skip", masks=masks)
        errors = [d for d in defects if d.action in {Action.ERROR, Action.MASK_ERROR}.difference(tolerated)]
        if errors:
            more = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
            raise DataError(
                errors[0].where,
                "sound data",
                f"{errors[0].kind}: {errors[0].detail}{more}",
                f"see `detsearch data check {self.where}`, or set 'on_defect: skip' in that file",
            )
        if not dataset.records:
            raise DataError(f"{self.where}: splits.{split}", "at least one usable image", "none")
        if self._first is not None:
            require_same_classes(self._first, dataset)
        self._first = self._first or dataset.subset(())
        return dataset, defects

    def inspect(self, split: str, *, decode: bool = False, masks: bool = False) -> tuple[Dataset, list[Defect]]:
        """The sound images of one split, and every defect found in it; with `decode`, every image is decoded whole,
        with `masks`, outlines are read.

        DataError where nothing can be read at all: an unknown split, a file that is not of its format, a class whose
        name text files of many kinds, whose readers strip them, and terminals could not hold.
        """
        if split not in self.splits:
            raise DataError(f"{self.where}: splits", f"one of {', '.join(self.splits)}", repr(split))
        findings = Findings(skip=self.on_defect == "skip", masks=masks)
        dataset = self.read(split, findings)
        for name in dataset.classes:
            if not name or name != name.strip() or not name.isprintable():
                expected = "class names that are printable, without spaces around them"
                raise DataError(self.where, expected, repr(name), "rename it, or name only others in 'classes'")
        dataset = _with_sound_images(dataset, findings, decode)
        if dataset.has_masks:
            findings.note_missing_masks()
        return dataset, findings.defects

    @abstractmethod
    def read(self, split: str, findings: Findings) -> Dataset:
        """The annotations of one split; image files are checked elsewhere. Defects go to `findings`."""

    def _dataset(self, split: str, classes: tuple[str, ...], records: Iterable[ImageRecord]) -> Dataset:
        """A split of a format that has no ids of categories: they are 1 to C."""
        ids = tuple(range(1, len(classes) + 1))
        return Dataset(name=self.name, split=split, classes=classes, category_ids=ids, records=tuple(records))


def _with_sound_images(dataset: Dataset, findings: Findings, decode: bool) -> Dataset:
    sound: list[int] = []
    for position, record in enumerate(dataset.records):
        try:
            width, height = record.probe()
            orientation = None
            if decode and (width, height) == (record.width, record.height):
                record.load()
                orientation = record.turned()
        except DataError as problem:
            kind = Kind.UNREADABLE_IMAGE if record.path.is_file() else Kind.MISSING_IMAGE
            findings.fault(kind, str(record.path), problem.received or "unreadable", Action.SKIPPED_IMAGE)
            continue
        if (width, height) != (record.width, record.height):
            detail = f"annotated as {record.width}x{record.height}, the file has {width}x{height}"
            if (height, width) == (record.width, record.height):
                detail += " (EXIF orientation is not applied)"
            findings.fault(Kind.SIZE_MISMATCH, str(record.path), detail, Action.SKIPPED_IMAGE)
            continue
        if orientation is not None:
            detail = f"orientation {orientation}, which is not applied: boxes must fit the pixels as stored"
            findings.note(Kind.TURNED, str(record.path), detail, Action.KEPT)
        sound.append(position)
    return dataset if len(sound) == len(dataset.records) else dataset.subset(sound)
