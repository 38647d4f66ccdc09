"""Files of tensors and plain values, which are read with nothing that could run code.

A file says what kind it is and of which version. Writing is atomic: a kill, or a full disk, leaves the previous file as
it was.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from detsearch.errors import CheckpointError, ResourceError
from detsearch.files import replacing

CONTENT: Final = "tensors and plain values"


def write_archive(path: Path, kind: str, version: int, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values by name, as a file that says what it is, atomically. ResourceError if that fails;
    what was at `path` before is then still there."""
    _write(path, {"format": kind, "version": version, **content})


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write nothing but tensors by name, on the CPU and contiguous, as any reader of PyTorch's files expects weights;
    atomically, ResourceError if that fails."""
    _write(path, {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    try:
        with replacing(path) as partial, partial.open("wb") as file:
            torch.save(dict(content), file)
    except RuntimeError as error:  # what torch makes of a write that the disk refuses
        reason = getattr(error.__context__, "strerror", None) or str(error).splitlines()[0]
        hint = "free space, or choose another folder"
        raise ResourceError(str(path), "a file that can be written", reason, hint) from error


def read_archive(path: Path, kind: str, version: int) -> dict[str, Any]:
    """What `write_archive` wrote, all tensors on the CPU; CheckpointError if there is no file, or it is damaged, of
    another kind or version, or holds anything but tensors and plain values."""
    where = str(path)
    try:
        if not zipfile.is_zipfile(path):  # whatever torch would read otherwise are formats of the past
            reason = (
                "no such file" if not path.exists() else "a folder" if path.is_dir() else "another or a truncated file"
            )
            raise CheckpointError(where, f"a {kind}", reason)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(where, CONTENT, "other objects, which are not loaded, or a damaged file") from error
    except Exception as error:  # a damaged or hostile file may fail anywhere in the reader, with any type
        raise CheckpointError(where, CONTENT, f"a damaged file ({_first_line(error)})") from error
    if not isinstance(content, dict) or content.get("format") != kind:
        raise CheckpointError(where, f"a {kind}", "another kind of file")
    if content.get("version") != version:
        raise CheckpointError(where, f"{kind} of format {version}", repr(content.get("version")), "update detsearch")
    return content


def is_archive(path: Path, kind: str) -> bool:
    """Whether a file says of itself that it is of a kind; its tensors are not read."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # a damaged or hostile file may fail anywhere; whoever reads it says how
        return False
    return isinstance(content, dict) and content.get("format") == kind


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
