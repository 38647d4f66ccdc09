"""Folders of images by class, as ImageNet is laid out, of colours that can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")


def coloured(path: Path, channel: int, seed: int, size: tuple[int, int] = (40, 36)) -> Path:
    """An image of noise in which a channel is brighter."""
    pixels = np.random.default_rng(seed).integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
    pixels[:, :, channel] += 110
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def image_folders(
    root: Path, classes: Sequence[str] = CLASSES, *, train: int = 4, val: int = 2, suffix: str = "png"
) -> Path:
    """So many images of each class in both splits; `root`."""
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed = hash((split == "val", label, number)) % 2**32
                coloured(root / split / name / f"{number}.{suffix}", 2 - label % 3, seed)
    return root
