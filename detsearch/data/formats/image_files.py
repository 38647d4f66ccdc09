"""The files that annotations name, and images that cannot be used because of them."""

from __future__ import annotations

from pathlib import Path

from detsearch.data import images
from detsearch.data.defects import Kind
from detsearch.data.paths import inside
from detsearch.errors import DataError


class Unusable(Exception):
    """An image that cannot be used, and why."""

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


def expect_folder(root: Path, name: str, field: str) -> None:
    """DataError about `field`, which says that the images are in the folder `name` below `root`, where that is none."""
    folder = inside(root, name)
    if not folder.is_dir():
        raise DataError(field, "a folder", f"{folder}, which is none")


def placed(root: Path, *parts: str) -> Path:
    """`root` joined with `parts`; Unusable where that leaves it."""
    try:
        return inside(root, *parts)
    except DataError as problem:
        raise Unusable(Kind.PATH_OUTSIDE, problem.received or "/".join(parts)) from problem


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) as the image file says, for annotations that do not; Unusable where it cannot be read."""
    try:
        return images.probe(path)
    except DataError as problem:
        kind = Kind.UNREADABLE_IMAGE if path.is_file() else Kind.MISSING_IMAGE
        raise Unusable(kind, problem.received or "unreadable") from problem


def malformed(problem: DataError) -> Unusable:
    """An annotation file of one image that is not of its form."""
    return Unusable(Kind.MALFORMED, f"{Path(problem.where).name}: expected {problem.expected}, got {problem.received}")
