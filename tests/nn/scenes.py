"""Small random inputs for the tests of networks."""

from __future__ import annotations

from dataclasses import replace

import torch

from detsearch.nn.structures import ImageBatch, Targets


def random_images(sizes: list[tuple[int, int]], padded: tuple[int, int], seed: int = 0) -> ImageBatch:
    """uint8 noise everywhere, the padding too; `sizes` and `padded` are height and width."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (len(sizes), 3, *padded), dtype=torch.uint8, generator=generator)
    return ImageBatch(pixels, torch.tensor(sizes))


def random_targets(
    counts: list[int], sizes: list[tuple[int, int]], num_classes: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Targets:
    """Boxes of at least 4 pixels a side inside their images."""
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for count, (height, width) in zip(counts, sizes, strict=True):
        limit = torch.tensor([width, height], dtype=dtype)
        corner = torch.rand((count, 2), generator=generator, dtype=dtype) * (limit - 8)
        side = 4 + torch.rand((count, 2), generator=generator, dtype=dtype) * (limit - corner - 4)
        boxes.append(torch.cat([corner, corner + side], dim=1))
        labels.append(torch.randint(0, num_classes, (count,), generator=generator))
    return Targets.from_lists(boxes, labels)


def with_masks(targets: Targets, padded: tuple[int, int], seed: int = 0) -> Targets:
    """The targets with an ellipse or a rectangle inside each box as its mask."""
    generator = torch.Generator().manual_seed(seed)
    boxes = targets.boxes[targets.valid].float()
    y = torch.arange(padded[0])[:, None] + 0.5
    x = torch.arange(padded[1]) + 0.5
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    off_x = ((x - centre[:, 0, None, None]) / half[:, 0, None, None]).abs()
    off_y = ((y - centre[:, 1, None, None]) / half[:, 1, None, None]).abs()
    round_ = torch.rand(len(boxes), generator=generator)[:, None, None] < 0.5
    inside = torch.where(round_, off_x**2 + off_y**2, torch.maximum(off_x, off_y)) <= 1
    return replace(targets, masks=inside.to(torch.uint8))
