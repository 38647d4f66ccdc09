"""The data file and the splits that a recipe names."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from detsearch.data.datafile import DataFile, load_datafile
from detsearch.data.dataset import Dataset
from detsearch.runs.recipe import builtin

BUILTIN: Final = ("synthetic", "synthetic-easy")
"""Built-in sets: what to write instead of the path of a data file."""


@lru_cache(maxsize=8)
def open_datafile(file: str) -> DataFile:
    """The data file at a path, or a built-in one by its name, read once in a process, so that its splits share what it
    finds out (the classes of VOC); DataError if it cannot be read."""
    return load_datafile(builtin(file) if file in BUILTIN else file)


@lru_cache(maxsize=8)
def load_split(file: str, split: str, masks: bool = False) -> Dataset:
    """A split, read once in a process, with its masks if wanted; DataError if it cannot be used."""
    return open_datafile(file).split(split, masks=masks)
