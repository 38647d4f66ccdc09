"""What can be wrong with a dataset, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What is wrong."""

    MISSING_IMAGE = "missing image"
    UNREADABLE_IMAGE = "unreadable image"
    SIZE_MISMATCH = "size contradicts the file"
    TURNED = "image turned by EXIF only"
    PATH_OUTSIDE = "path leaves the data root"
    DUPLICATE_ID = "duplicate id"
    UNKNOWN_IMAGE = "unknown image"
    UNKNOWN_CATEGORY = "unknown category"
    MALFORMED = "malformed annotation"
    NO_AREA = "box without area"
    OUTSIDE = "box outside the image"
    MALFORMED_MASK = "malformed mask"
    MISSING_MASK = "object without mask in a set that has masks"
    UNUSABLE_SPLIT = "unusable split"


class Action(StrEnum):
    """What is done about it."""

    ERROR = "error"
    SKIPPED_IMAGE = "skipped image"
    SKIPPED_BOX = "skipped box"
    CLIPPED_BOX = "clipped box"
    KEPT = "kept as stored"
    MASK_ERROR = "error where masks are used"
    MASK_SKIPPED = "skipped box where masks are used"


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong: `where` names file and object, `detail` what was found there."""

    kind: Kind
    where: str
    detail: str
    action: Action

    def __str__(self) -> str:
        return f"{self.where}: {self.kind}, {self.detail} ({self.action})"


@dataclass(slots=True)
class Findings:
    """Collects defects while a format is read; `skip` decides about those that could be errors. Outlines are looked at
    where `masks` says so: to a detector of boxes they are not worth the time, nor is what is wrong with them."""

    skip: bool = False
    masks: bool = False
    defects: list[Defect] = field(default_factory=list)
    without_mask: list[str] = field(default_factory=list)

    def note(self, kind: Kind, where: str, detail: str, action: Action) -> None:
        """A defect about which the same is always done."""
        self.defects.append(Defect(kind, where, detail, action))

    def fault(self, kind: Kind, where: str, detail: str, otherwise: Action) -> None:
        """A defect that is an error, or `otherwise` where the data file says ``on_defect: skip``."""
        self.note(kind, where, detail, otherwise if self.skip else Action.ERROR)

    def mask_fault(self, kind: Kind, where: str, detail: str) -> None:
        """A defect that leaves an object without a mask, which matters where masks are used only."""
        self.note(kind, where, detail, Action.MASK_SKIPPED if self.skip else Action.MASK_ERROR)

    def note_missing_masks(self) -> None:
        """Once it is known that the set has masks: the objects of `without_mask` are defects, if not noted as such."""
        malformed = {defect.where for defect in self.defects if defect.kind is Kind.MALFORMED_MASK}
        for where in self.without_mask:
            if where not in malformed:
                self.mask_fault(Kind.MISSING_MASK, where, "no segmentation")
