"""Paths that a file from outside names, held inside the data root."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from detsearch.errors import DataError


def inside(root: Path, *parts: str) -> Path:
    """`root` joined with `parts`; DataError if a part is absolute, climbs (``..``), or a link leads out of `root`."""
    for part in parts:
        climbs = ".." in PurePosixPath(part).parts or ".." in PureWindowsPath(part).parts
        absolute = PurePosixPath(part).is_absolute() or PureWindowsPath(part).is_absolute()
        if not part or "\0" in part or climbs or absolute:
            raise DataError(str(root), "paths below this folder", repr(part))
    path = root.joinpath(*parts)
    try:
        base, real = os.path.realpath(root), os.path.realpath(path)
    except ValueError:  # of characters that no file name can hold, such as half of a surrogate pair
        raise DataError(str(root), "paths below this folder", f"{path}, which cannot be one") from None
    if real != base and not real.startswith(base.rstrip(os.sep) + os.sep):
        raise DataError(str(root), "paths below this folder", f"{path}, a link to {real}")
    return path
