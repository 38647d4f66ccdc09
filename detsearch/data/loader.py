"""Batches of uint8 images for training and for evaluation.

Images are padded with zeros at the right and at the bottom to the largest of their batch, rounded up to a multiple of
`divisor`, so portrait and landscape images share a batch. Shapes as in `nn.structures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from detsearch.data.cache import PreparedImages
from detsearch.data.dataset import Dataset as Images
from detsearch.data.dataset import ImageRecord
from detsearch.data.transforms import Augmentation, Sample, augment
from detsearch.errors import UserError
from detsearch.nn.structures import ImageBatch, Targets
from detsearch.types import InputSize

T = TypeVar("T")
Key: TypeAlias = tuple[int, tuple[int, ...]]  # epoch, positions in the dataset

_ORDER, AUGMENT = 1, 2  # streams of random numbers


def train_loader(
    dataset: Images,
    size: InputSize,
    *,
    batch: int,
    seed: int,
    augmentation: Augmentation,
    workers: int,
    divisor: int = 32,
    cache_mb: int = 0,
    masks: bool = False,
    share: tuple[int, int] = (0, 1),
) -> TrainLoader[tuple[ImageBatch, Targets]]:
    """Shuffled, augmented batches of `batch` images with their targets (`ImageRecord.targets`), and with `masks` their
    masks: every target needs an outline, as ``split(masks=True)`` of a set that has masks gives it.

    What is delivered depends only on (seed, epoch, position in the dataset), never on `workers` (processes; 0: none) or
    `cache_mb` (MiB of memory for fitted images and masks).

    `share` (i, n): of each batch only part i of n, whose images are those that one process would have there; padded to
    the largest of them. n divides the batch.
    """
    assert not masks or all(record.outlined()[record.targets].all() for record in dataset.records)
    images = PreparedImages(
        dataset.records, size, enlarge=augmentation.scale[1], limit_mb=cache_mb, shared=workers > 0, masks=masks
    )
    batches = _TrainBatches(dataset.records, images, size, augmentation, seed, divisor, masks)
    return TrainLoader(batches, len(dataset), batch=batch, seed=seed, workers=workers, share=share)


def eval_loader(
    dataset: Images, size: InputSize, *, batch: int, workers: int, divisor: int = 32, cache_mb: int = 0
) -> EvalLoader:
    """All images, fitted and nothing more, with their records: first the landscape ones, then the portrait ones, each
    in order, so that every batch is padded to the whole box that images are fitted into. An image is answered as it
    would be alone, whatever stands beside it (group norms see the padding), on a tensor as latency is measured on.

    An image's stored width / its width in `ImageBatch.sizes` is the horizontal scale, likewise for height: fitting
    rounds each side to whole pixels.
    """
    return EvalLoader(dataset, size, batch=batch, workers=workers, divisor=divisor, cache_mb=cache_mb)


class TrainLoader(Generic[T]):
    """`count` images in batches that `batches` makes of their keys, shuffled by (seed, epoch). An epoch has
    ``len(loader)`` batches; what does not fill the last one is left out, unless it is the only one. Iterating again
    without `set_epoch` gives the same batches. `share`: see `train_loader`."""

    def __init__(
        self,
        batches: Dataset[T],
        count: int,
        *,
        batch: int,
        seed: int,
        workers: int,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._plan = _Shuffled(count, batch, seed, share)
        self._loader = Loader(batches, self._plan, workers)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose what the next iteration delivers; it begins with batch number `start_batch`, and the images of those
        before it are not loaded."""
        self._plan.epoch, self._plan.start = epoch, start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._plan)

    def __iter__(self) -> Iterator[T]:
        return iter(self._loader)


class EvalLoader:
    """See `eval_loader`."""

    def __init__(
        self, dataset: Images, size: InputSize, *, batch: int, workers: int, divisor: int, cache_mb: int
    ) -> None:
        self._records = dataset.records
        images = PreparedImages(dataset.records, size, enlarge=1.0, limit_mb=cache_mb, shared=workers > 0)
        portrait = [record.height > record.width for record in dataset.records]
        groups = [[i for i, turned in enumerate(portrait) if turned is kind] for kind in (False, True)]
        self._plan = InOrder(groups, batch)
        self._loader = Loader(_EvalBatches(images, portrait, size.padded(divisor)), self._plan, workers)

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[tuple[ImageBatch, list[ImageRecord]]]:
        for images, positions in self._loader:
            yield images, [self._records[position] for position in positions]


class _Shuffled(Sampler[Key]):
    """The keys of one epoch's batches, or of a `share` of each."""

    def __init__(self, count: int, batch: int, seed: int, share: tuple[int, int]) -> None:
        self._count, self._batch, self._seed = count, min(batch, max(count, 1)), seed
        number, parts = share
        assert self._batch % parts == 0, "parts are equal"
        self._part = slice(number * self._batch // parts, (number + 1) * self._batch // parts)
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self._count // self._batch

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng([_ORDER, self._seed, self.epoch]).permutation(self._count).tolist()
        for number in range(self.start, len(self)):
            yield self.epoch, tuple(order[number * self._batch : (number + 1) * self._batch][self._part])


class InOrder(Sampler[Key]):
    """The keys of batches of positions in their order, none of which holds positions of two groups."""

    def __init__(self, groups: Sequence[Sequence[int]], batch: int) -> None:
        self._batches = [tuple(group[i : i + batch]) for group in groups for i in range(0, len(group), batch)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Key]:
        for batch in self._batches:
            yield 0, batch


class _TrainBatches(Dataset[tuple[ImageBatch, Targets]]):
    """Makes the batch of a key; runs in the workers."""

    def __init__(
        self,
        records: Sequence[ImageRecord],
        images: PreparedImages,
        size: InputSize,
        augmentation: Augmentation,
        seed: int,
        divisor: int,
        masks: bool,
    ) -> None:
        self._records, self._images, self._masks = records, images, masks
        self._size, self._augmentation, self._seed, self._divisor = size, augmentation, seed, divisor

    def __getitem__(self, key: Key) -> tuple[ImageBatch, Targets]:
        epoch, positions = key
        samples = [self._sample(epoch, position) for position in positions]
        images = pad([sample.pixels for sample in samples], self._divisor)
        masks = [_in_corner(s.masks, images.padded) for s in samples if s.masks is not None]
        targets = Targets.from_lists(
            [sample.boxes for sample in samples],
            [sample.labels for sample in samples],
            masks if self._masks else None,
        )
        return images, targets

    def _sample(self, epoch: int, position: int) -> Sample:
        record, pixels = self._records[position], self._images[position]
        target = record.targets
        ratio = torch.tensor([pixels.shape[2] / record.width, pixels.shape[1] / record.height] * 2)
        boxes = torch.from_numpy(record.boxes[target]) * ratio
        masks = self._images.masks(position) if self._masks else None
        sample = Sample(pixels, boxes, torch.from_numpy(record.labels[target]), masks)
        rng = np.random.default_rng([AUGMENT, self._seed, epoch, position])
        return augment(sample, self._size, self._augmentation, rng)


class _EvalBatches(Dataset[tuple[ImageBatch, tuple[int, ...]]]):
    def __init__(self, images: PreparedImages, portrait: Sequence[bool], box: InputSize) -> None:
        self._images, self._portrait = images, portrait
        self._long, self._short = max(box.width, box.height), min(box.width, box.height)

    def __getitem__(self, key: Key) -> tuple[ImageBatch, tuple[int, ...]]:
        positions = key[1]
        turned = self._portrait[positions[0]]
        least = (self._long, self._short) if turned else (self._short, self._long)
        return pad([self._images[position] for position in positions], 1, least=least), positions


def pad(images: Sequence[Tensor], divisor: int = 32, *, least: tuple[int, int] = (1, 1)) -> ImageBatch:
    """Images (3, h, w) of any sizes as one batch (B, 3, H, W), H and W multiples of `divisor` and at least `least`."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    needed = torch.maximum(sizes.amax(dim=0), torch.tensor(least))
    height, width = (-(-int(side) // divisor) * divisor for side in needed)
    pixels = images[0].new_zeros((len(images), 3, height, width))
    for i, image in enumerate(images):
        pixels[i, :, : image.shape[1], : image.shape[2]] = image
    return ImageBatch(pixels, sizes)


def _in_corner(masks: Tensor, padded: tuple[int, int]) -> Tensor:
    """Masks (m, h, w) as (m, H, W), zeros at the right and at the bottom."""
    whole = masks.new_zeros((len(masks), *padded))
    whole[:, : masks.shape[1], : masks.shape[2]] = masks
    return whole


class Loader(Generic[T]):
    """A DataLoader over whole batches, which passes on what a user can mend as what it is."""

    def __init__(self, batches: Dataset[T], plan: Sampler[Key], workers: int) -> None:
        self._loader = DataLoader(
            _Guarded(batches.__getitem__),
            batch_size=None,
            sampler=plan,
            num_workers=workers,
            collate_fn=_unchanged,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # else it would draw from the global one, and change what training draws
        )

    def __iter__(self) -> Iterator[T]:
        for item in self._loader:
            if isinstance(item, UserError):
                raise item
            yield item


class _Guarded(Dataset[T | UserError]):
    """Errors as values: an exception that leaves a worker arrives as another one, with a traceback for a message."""

    def __init__(self, make: Callable[[Key], T]) -> None:
        self._make = make

    def __getitem__(self, key: Key) -> T | UserError:
        try:
            return self._make(key)
        except UserError as problem:
            return problem


def _unchanged(item: T) -> T:
    return item
