"""Batches of square crops with their labels: (`ImageBatch`, (B,) int64)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detsearch.data import images
from detsearch.data.crops import CropAugmentation, RandomCrop, centre_crop
from detsearch.data.image_folders import LabelledImages
from detsearch.data.loader import AUGMENT, InOrder, Key, Loader, TrainLoader
from detsearch.nn.structures import ImageBatch

LabelledBatch: TypeAlias = tuple[ImageBatch, Tensor]


def crop_train_loader(
    dataset: LabelledImages,
    size: int,
    *,
    batch: int,
    seed: int,
    augmentation: CropAugmentation,
    workers: int,
    share: tuple[int, int] = (0, 1),
) -> TrainLoader[LabelledBatch]:
    """Shuffled random crops, which depend on (seed, epoch, position in the dataset) only, never on `workers`. `share`
    (i, n): of each batch only part i of n."""
    batches = _RandomCrops(dataset, RandomCrop(size, augmentation), seed)
    return TrainLoader(batches, len(dataset), batch=batch, seed=seed, workers=workers, share=share)


def crop_eval_loader(
    dataset: LabelledImages, size: int, *, resize: int, batch: int, workers: int
) -> Loader[LabelledBatch]:
    """The middle of every image, in order, the last batch with what is left."""
    return Loader(_CentreCrops(dataset, size, resize), InOrder([range(len(dataset))], batch), workers)


class _RandomCrops(Dataset[LabelledBatch]):
    def __init__(self, dataset: LabelledImages, crop: RandomCrop, seed: int) -> None:
        self._dataset, self._crop, self._seed = dataset, crop, seed

    def __getitem__(self, key: Key) -> LabelledBatch:
        epoch, positions = key
        crops = [self._crop(images.decode(self._dataset.path(p)), self._drawn(epoch, p)) for p in positions]
        return _joined(crops, self._dataset, positions)

    def _drawn(self, epoch: int, position: int) -> int:
        sequence = np.random.SeedSequence([AUGMENT, self._seed, epoch, position])
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)  # torch takes what fits a signed one


class _CentreCrops(Dataset[LabelledBatch]):
    def __init__(self, dataset: LabelledImages, size: int, resize: int) -> None:
        self._dataset, self._size, self._resize = dataset, size, resize

    def __getitem__(self, key: Key) -> LabelledBatch:
        _, positions = key
        decoded = (images.decode(self._dataset.path(position)) for position in positions)
        return _joined([centre_crop(pixels, self._size, self._resize) for pixels in decoded], self._dataset, positions)


def _joined(crops: list[Tensor], dataset: LabelledImages, positions: tuple[int, ...]) -> LabelledBatch:
    pixels = torch.stack(crops)
    sizes = torch.tensor([pixels.shape[2:]] * len(crops))
    return ImageBatch(pixels, sizes), torch.from_numpy(dataset.labels[list(positions)])
