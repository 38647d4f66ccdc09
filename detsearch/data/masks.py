"""Outlines of objects, as polygons or run lengths, and the masks that they stand for.

Both forms are COCO's, and pycocotools turns them into pixels, so that a mask here is the one that COCO's own evaluation
sees. Its C code trusts what it is given: run lengths that do not add up, or a point far outside the image, make it read
beyond its memory or ask for gigabytes. So whatever comes from a file passes `read_segmentation` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco_masks
from torch import Tensor

from detsearch.data.images import MAX_PIXELS
from detsearch.data.transforms import resize_masks

MAX_WINDING: Final = 100
"""Length of an object's polygons at most, in units of the image's width and height together: what is rasterised costs
memory by its length. Those of real objects are below 5."""

_DIGIT, _MORE, _SIGN = 31, 32, 16  # bits of a character of compressed counts
_LONGEST: Final = 7  # characters of a count: 35 bits


@dataclass(frozen=True, slots=True)
class RunLengths:
    """A mask of `width` x `height` pixels: `counts`, compressed as COCO does it, are the lengths of the runs of pixels
    outside and inside in turn, down the columns, outside first."""

    width: int
    height: int
    counts: bytes

    def to_coco(self) -> dict[str, Any]:
        """As it stands in COCO's JSON."""
        return {"size": [self.height, self.width], "counts": self.counts.decode("ascii")}


Polygons: TypeAlias = tuple[NDArray[np.float64], ...]
"""The parts of an object, each (P, 2) points x, y in pixels, continuous coordinates; P is 3 or more."""

Segmentation: TypeAlias = Polygons | RunLengths


def read_segmentation(raw: object, width: int, height: int) -> Segmentation | None:
    """What COCO's JSON calls ``segmentation``, of an object in an image of `width` x `height` pixels: a list of
    polygons, or run lengths, compressed or not; None for nothing (null, or an empty list). Neither time nor memory
    grows with anything but the length of the text. ValueError, saying what is wrong, for all else."""
    if raw is None or raw == []:
        return None
    if width * height > MAX_PIXELS:
        raise ValueError(f"an image of {width}x{height} pixels")
    if isinstance(raw, list):
        return _polygons(raw, width, height)
    if not isinstance(raw, dict):
        raise ValueError(f"a {type(raw).__name__}, neither polygons nor RLE")
    size, counts = raw.get("size"), raw.get("counts")
    if size != [height, width]:
        raise ValueError(f"RLE of size {_brief(size)} in an image of [{height}, {width}]")
    if isinstance(counts, str) and counts.isascii():
        runs = _decompressed(counts.encode("ascii"))
    elif isinstance(counts, list) and set(map(type, counts)) <= {int}:
        runs = np.array([min(max(count, -1), MAX_PIXELS + 1) for count in counts], dtype=np.int64)
    else:
        raise ValueError("RLE whose counts are neither a text nor whole numbers")
    if runs.size == 0 or runs.min() < 0 or runs.max() > MAX_PIXELS or int(runs.sum()) != width * height:
        raise ValueError(f"RLE whose counts do not add up to {width}x{height} pixels")
    # Runs of no length are left out: pycocotools stops at them when it compares masks.
    edges, times = np.unique(np.cumsum(runs)[:-1], return_counts=True)
    found = _from_edges(edges[times % 2 == 1], width, height)
    if found.counts == _from_edges(np.zeros(0, np.int64), width, height).counts:
        raise ValueError("RLE without a pixel inside")
    return found


def to_coco(segmentation: Segmentation) -> list[list[float]] | dict[str, Any]:
    """As it stands in COCO's JSON."""
    if isinstance(segmentation, RunLengths):
        return segmentation.to_coco()
    return [part.ravel().tolist() for part in segmentation]


def to_runs(segmentation: Segmentation, width: int, height: int) -> RunLengths:
    """The mask in an image of this size."""
    if isinstance(segmentation, RunLengths):
        return segmentation
    parts = coco_masks.frPyObjects([part.ravel() for part in segmentation], height, width)
    return RunLengths(width, height, coco_masks.merge(parts)["counts"])


def decode(
    segmentations: Sequence[Segmentation], stored: tuple[int, int], size: tuple[int, int] | None = None
) -> Tensor:
    """Masks (m, H, W) uint8, 0 or 1, of objects in an image of `stored` (width, height), once it is stretched to `size`
    (width, height). Polygons are stretched before they become pixels, run lengths after."""
    width, height = size or stored
    ratio = np.array([width / stored[0], height / stored[1]])
    masks = torch.zeros((len(segmentations), height, width), dtype=torch.uint8)
    for i, segmentation in enumerate(segmentations):
        if isinstance(segmentation, RunLengths):
            masks[i] = resize_masks(_pixels(segmentation)[None], width, height)[0]
        else:
            masks[i] = _pixels(to_runs(tuple(part * ratio for part in segmentation), width, height))
    return masks


def encode(mask: ArrayLike, left: int = 0, top: int = 0, size: tuple[int, int] | None = None) -> RunLengths:
    """A mask (h, w) of bool or 0 and 1, which lies at (`left`, `top`) in an image of `size` (width, height) that is
    empty elsewhere; without `size` it is the image."""
    window = np.asarray(mask, dtype=np.bool_)
    width, height = size or (window.shape[1], window.shape[0])
    columns = np.zeros((window.shape[1], height), dtype=np.bool_)  # only those that the window covers
    columns[:, top : top + window.shape[0]] = window.T
    edges = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False))
    return _from_edges(edges[edges + left * height < width * height] + left * height, width, height)


def _polygons(raw: list[Any], width: int, height: int) -> Polygons:
    parts: list[NDArray[np.float64]] = []
    for points in raw:
        if not (isinstance(points, list) and set(map(type, points)) <= {int, float}):
            raise ValueError("polygons that are not lists of numbers")
        if len(points) < 6 or len(points) % 2:
            raise ValueError(f"a polygon of {len(points)} numbers; x and y of three points or more are needed")
        try:
            parts.append(np.array(points, dtype=np.float64).reshape(-1, 2))
        except OverflowError:  # an integer beyond all floats
            parts.append(np.full((1, 2), np.inf))
        # Also false for what is not finite.
        if not ((parts[-1] >= [-width, -height]) & (parts[-1] <= [2 * width, 2 * height])).all():
            raise ValueError(f"a polygon with a point far outside {width}x{height} pixels")
    length = sum(float(np.abs(np.diff(part, axis=0, append=part[:1])).max(axis=1).sum()) for part in parts)
    if length > MAX_WINDING * (width + height):
        raise ValueError(f"polygons {length:.0f} pixels long in an image of {width}x{height}")
    return tuple(parts)


def _decompressed(counts: bytes) -> NDArray[np.int64]:
    """The numbers in compressed counts: five bits a character, low ones first, a sixth that says that more follow; from
    the fourth on, numbers are differences to the one before the last."""
    digits = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(digits < _MORE)
    if digits.size == 0 or digits.min() < 0 or digits.max() >= 2 * _MORE or digits[-1] >= _MORE:
        raise ValueError("RLE whose counts are no compressed numbers")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        raise ValueError("RLE with a count larger than any image")
    place = np.arange(len(digits)) - np.repeat(starts, lengths)
    numbers: NDArray[np.int64] = np.add.reduceat((digits & _DIGIT) << (5 * place), starts)
    numbers -= np.where(digits[ends] & _SIGN, 1 << (5 * lengths), 0)
    for parity in (1, 2):
        numbers[parity::2] = np.cumsum(numbers[parity::2])
    return numbers


def _from_edges(edges: NDArray[np.int64], width: int, height: int) -> RunLengths:
    """The mask whose pixels, counted down the columns, change from outside to inside or back at `edges`, ascending and
    below the number of pixels."""
    runs = np.diff(edges, prepend=0, append=width * height)
    packed = coco_masks.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return RunLengths(width, height, packed["counts"])


def _pixels(runs: RunLengths) -> Tensor:
    """(H, W) uint8."""
    return torch.from_numpy(coco_masks.decode({"size": [runs.height, runs.width], "counts": runs.counts}))


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
