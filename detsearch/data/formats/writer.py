"""What every format that can be written has: where images go, the annotations of a split, the data file's content."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from detsearch.data.dataset import Dataset


class Writer(ABC):
    """Writes splits below a folder. A format is a subclass, listed in `formats.WRITERS`.

    What the format has no place for is left out: who wants to know what that was reads the result and compares.
    """

    images: ClassVar[str]
    """Folder of a split's images, below the root, with ``{split}`` for its name."""
    settings: ClassVar[Mapping[str, str]] = {}
    """What the data file says besides root, classes and splits."""

    @abstractmethod
    def write(self, dataset: Dataset, names: Sequence[str], folder: Path) -> Any:
        """Write the annotations of the split ``dataset.split`` below `folder`; what the data file calls the split.

        `names` are the file names of the images, with ending, in the order of the records; images of one name are one
        image, also in different splits.
        """


def decimal(value: float, digits: int) -> str:
    """A number as text, rounded to so many digits, without those that say nothing."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")
