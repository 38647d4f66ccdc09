"""Batches: the same whatever makes them, nothing lost, shapes as promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detsearch.data.cache import PreparedImages
from detsearch.data.dataset import Dataset
from detsearch.data.formats.synthetic import SyntheticFile
from detsearch.data.loader import TrainLoader, eval_loader, pad, train_loader
from detsearch.data.transforms import Augmentation
from detsearch.errors import DataError
from detsearch.types import InputSize
from tests.data.makers import dataset, record, save_image

SIZE = InputSize(64, 48)
STRONG = Augmentation(vertical_flip=0.3, scale=(0.6, 1.6), brightness=0.2, contrast=0.2, saturation=0.2)


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    splits = {"x": {"images": 14, "seed": 0}}
    return SyntheticFile.model_validate({"width": 96, "height": 72, "splits": splits}).split("x", masks=True)


def loader(
    data: Dataset,
    workers: int = 0,
    cache_mb: int = 0,
    batch: int = 4,
    seed: int = 5,
    masks: bool = False,
    share: tuple[int, int] = (0, 1),
) -> TrainLoader:
    return train_loader(
        data,
        SIZE,
        batch=batch,
        seed=seed,
        augmentation=STRONG,
        workers=workers,
        cache_mb=cache_mb,
        divisor=16,
        masks=masks,
        share=share,
    )


def epoch(source: TrainLoader, number: int, start: int = 0) -> list[tuple[torch.Tensor, ...]]:
    source.set_epoch(number, start)
    return [
        (im.pixels, im.sizes, t.boxes, t.labels, t.valid, *(() if t.masks is None else (t.masks,))) for im, t in source
    ]


def same(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


def test_shares_of_batches_make_up_the_batches(shapes: Dataset) -> None:
    """All images of a batch in the order in which one process has them, with the same changes."""
    whole = epoch(loader(shapes), 2, start=1)
    parts = [epoch(loader(shapes, share=(number, 2)), 2, start=1) for number in range(2)]
    assert len(whole) == 2
    for batch, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(batch[1], torch.cat([share[1] for share in shares]))
        for share, sizes, pixels in zip(shares, batch[1].split(2), batch[0].split(2), strict=True):
            for own, image, (height, width) in zip(share[0], pixels, sizes.tolist(), strict=True):
                assert torch.equal(own[:, :height, :width], image[:, :height, :width])
        boxes = [share[2][share[4]] for share in shares]
        assert torch.equal(batch[2][batch[4]], torch.cat(boxes))


@pytest.mark.parametrize(("workers", "cache_mb"), [(0, 1), (1, 0), (2, 0), (2, 1)])
def test_batches_do_not_depend_on_workers_or_cache(shapes: Dataset, workers: int, cache_mb: int) -> None:
    plain, other = loader(shapes, masks=True), loader(shapes, workers, cache_mb, masks=True)
    for number in (3, 0, 0):  # the second and third time from the cache
        assert same(epoch(plain, number), epoch(other, number))


def test_masks_are_for_who_asks_and_change_nothing_else(shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with_masks = epoch(loader(shapes, masks=True), 0)
    monkeypatch.setattr("detsearch.data.cache.decode", None)  # called by nobody
    assert same([batch[:5] for batch in with_masks], epoch(loader(shapes), 0))
    assert {len(batch) for batch in with_masks} == {6}


def test_masks_cover_their_objects(shapes: Dataset) -> None:
    """Every valid row has its mask over the padded image, filled where the box is and empty elsewhere."""
    source = train_loader(
        shapes, InputSize(96, 72), batch=5, seed=0, augmentation=Augmentation(), workers=0, masks=True
    )
    for images, targets in source:
        assert targets.masks is not None
        assert targets.masks.shape == (int(targets.valid.sum()), *images.padded)
        rows = targets.mask_rows()
        for i, j in torch.nonzero(targets.valid).tolist():
            ys, xs = torch.nonzero(targets.masks[rows[i, j]], as_tuple=True)
            tight = [float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)]
            assert targets.boxes[i, j].tolist() == tight


def test_cached_masks_keep_to_the_limit(shapes: Dataset) -> None:
    """In 1 MiB, fewer images with masks. Those of an image may end within a byte."""
    size, limit = InputSize(283, 251), 1 << 20
    boxes_only = PreparedImages(shapes.records, size, enlarge=1.0, limit_mb=1, shared=False)
    cached = PreparedImages(shapes.records, size, enlarge=1.0, limit_mb=1, shared=False, masks=True)
    uncached = PreparedImages(shapes.records, size, enlarge=1.0, limit_mb=0, shared=False, masks=True)
    assert len(cached._bytes) <= limit
    assert len(boxes_only._shapes) > len(cached._shapes) > 0
    for _ in range(2):
        for position, known in enumerate(shapes.records):
            masks = cached.masks(position)
            assert torch.equal(masks, uncached.masks(position))
            assert masks.shape == (len(known.boxes), 212, 283)
            assert torch.equal(cached[position], uncached[position])


def test_batches_depend_on_seed_and_epoch(shapes: Dataset) -> None:
    first = epoch(loader(shapes), 0)
    assert not same(first, epoch(loader(shapes), 1))
    assert not same(first, epoch(loader(shapes, seed=6), 0))


def test_global_random_state_is_neither_read_nor_changed(shapes: Dataset) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (that it is not used is the point)
    first = epoch(loader(shapes, 1), 0)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3))
    assert same(first, epoch(loader(shapes, 1), 0))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_can_be_entered_at_any_batch_without_loading_those_before(
    shapes: Dataset, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = loader(shapes, workers)
    whole = epoch(source, 2)
    loads: list[int] = []
    kind = type(shapes.records[0])
    original = kind.load
    monkeypatch.setattr(kind, "load", lambda self: loads.append(self.image_id) or original(self))
    assert same(whole[2:], epoch(source, 2, start=2))
    if not workers:
        assert len(loads) == 4
    assert epoch(source, 2, start=3) == []
    assert same(whole, epoch(source, 2))


def test_leaving_an_epoch_early_does_no_harm(shapes: Dataset) -> None:
    source = loader(shapes, 1)
    source.set_epoch(0)
    next(iter(source))
    assert same(epoch(source, 1), epoch(loader(shapes), 1))


def test_every_image_once_an_epoch_but_for_the_rest(shapes: Dataset) -> None:
    plain = train_loader(shapes, SIZE, batch=4, seed=0, augmentation=Augmentation.none(), workers=0)
    assert len(plain) == 3
    seen = [batch.pixels[i].sum().item() for batch, _ in plain for i in range(len(batch))]
    assert len(seen) == len(set(seen)) == 12
    small = train_loader(shapes.subset(range(3)), SIZE, batch=4, seed=0, augmentation=Augmentation.none(), workers=0)
    assert [len(batch) for batch, _ in small] == [3]
    assert len(small) == 1
    none = train_loader(shapes.subset([]), SIZE, batch=4, seed=0, augmentation=Augmentation.none(), workers=0)
    assert len(none) == 0
    assert list(none) == []


def test_cache_keeps_to_its_limit_and_saves_loading(shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    kind = type(shapes.records[0])
    original = kind.load
    monkeypatch.setattr(kind, "load", lambda self: loads.append(self.image_id) or original(self))
    big = InputSize(512, 384)  # 576 KiB an image: one of them fits into 1 MiB
    source = train_loader(shapes, big, batch=14, seed=0, augmentation=Augmentation(), workers=0, cache_mb=1)
    for number, expected in ((0, 14), (1, 13), (2, 13)):
        loads.clear()
        epoch(source, number)
        assert len(loads) == expected


def test_targets_leave_out_crowd_and_difficult(tmp_path: Path) -> None:
    path = save_image(tmp_path / "x.png", 64, 48)
    boxes = [[0, 0, 10, 10], [10, 10, 30, 30], [5, 5, 60, 40.5]]
    flags = {"crowd": np.array([1, 0, 0], bool), "difficult": np.array([0, 1, 0], bool), "labels": np.array([0, 1, 1])}
    outlines = tuple((np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64),) for x1, y1, x2, y2 in boxes)
    data = dataset(record(path, 64, 48, boxes, segmentations=outlines, **flags))
    ((_, targets),) = train_loader(data, SIZE, batch=1, seed=0, augmentation=Augmentation.none(), workers=0, masks=True)
    assert targets.masks is not None
    assert targets.masks.shape == (1, 64, 64)
    assert targets.masks.sum() == 55 * 36  # the half-covered last row belongs to it
    assert targets.boxes.tolist() == [[[5, 5, 60, 40.5]]]
    assert targets.labels.tolist() == [[1]]
    assert targets.valid.all()


def test_portrait_landscape_empty_and_one_pixel_images_share_a_batch(tmp_path: Path) -> None:
    shapes = [(128, 96), (96, 128), (1, 1), (200, 10)]
    records = [
        record(save_image(tmp_path / f"{i}.png", w, h), w, h, [[0, 0, w, h]] if i != 1 else [], image_id=i)
        for i, (w, h) in enumerate(shapes)
    ]
    data = dataset(*records)
    fitted = [(48, 64), (64, 48), (48, 48), (3, 64)]
    batches = list(eval_loader(data, SIZE, batch=8, workers=0))
    assert [[records.index(r) for r in found] for _, found in batches] == [[0, 2, 3], [1]]
    for (images, found), shape in zip(batches, [(64, 64), (64, 64)], strict=True):
        assert images.pixels.shape == (len(found), 3, *shape)
        assert images.pixels.dtype == torch.uint8
        for pixels, size, known in zip(images.pixels, images.sizes, found, strict=True):
            height, width = fitted[records.index(known)]
            assert size.tolist() == [height, width]
            outside = pixels.clone()
            outside[:, :height, :width] = 0
            assert not outside.any()
            assert pixels[:, :height, :width].any()

    ((images, targets),) = train_loader(data, SIZE, batch=4, seed=0, augmentation=Augmentation.none(), workers=0)
    assert sorted(targets.valid.sum(dim=1).tolist()) == [0, 1, 1, 1]
    ends = targets.boxes[:, 0, [3, 2]][targets.valid[:, 0]]
    assert torch.equal(ends, images.sizes[targets.valid[:, 0]].float())  # the box still covers the whole image


def test_evaluation_pads_every_image_to_the_whole_box(tmp_path: Path) -> None:
    """However wide or flat its neighbours are: the tensor of an image, and so its answer, is always the same."""
    shapes = [(128, 32), (128, 96), (32, 128), (96, 128)]
    data = dataset(*(record(save_image(tmp_path / f"{i}.png", w, h), w, h, [], image_id=i)
                     for i, (w, h) in enumerate(shapes)))  # fmt: skip
    for batch in (1, 2, 4):
        shown = {
            known.image_id: tuple(images.pixels.shape[2:])
            for images, found in eval_loader(data, InputSize(128, 96), batch=batch, workers=0)
            for known in found
        }
        assert shown == {0: (96, 128), 1: (96, 128), 2: (128, 96), 3: (128, 96)}


def test_batch_without_any_box(tmp_path: Path) -> None:
    path = save_image(tmp_path / "x.png", 40, 30)
    data = dataset(*(record(path, 40, 30, [], image_id=i) for i in range(2)))
    ((images, targets),) = train_loader(data, SIZE, batch=2, seed=0, augmentation=STRONG, workers=0, masks=True)
    assert targets.boxes.shape == (2, 0, 4)
    assert targets.masks is not None
    assert targets.masks.shape == (0, *images.padded)
    assert targets.labels.dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_gives_every_image_in_order(shapes: Dataset, workers: int) -> None:
    source = eval_loader(shapes, SIZE, batch=4, workers=workers)
    assert len(source) == 4
    for _ in range(2):
        batches = list(source)
        assert [len(images) for images, _ in batches] == [4, 4, 4, 2]
        assert [r.image_id for _, records in batches for r in records] == list(range(1, 15))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_meanwhile_is_named(tmp_path: Path, workers: int) -> None:
    path = save_image(tmp_path / "x.png", 40, 30)
    data = dataset(record(path, 40, 30, []))
    source = eval_loader(data, SIZE, batch=1, workers=workers)
    path.write_bytes(b"gone")
    with pytest.raises(DataError, match=r"x\.png: expected a readable, complete image"):
        list(source)


@pytest.mark.parametrize("divisor", [1, 32, 128])
def test_padding_to_a_multiple(divisor: int) -> None:
    images = [torch.ones((3, 33, 5), dtype=torch.uint8), torch.ones((3, 1, 129), dtype=torch.uint8)]
    batch = pad(images, divisor)
    height, width = batch.pixels.shape[2:]
    assert height % divisor == width % divisor == 0
    assert 0 <= height - 33 < divisor
    assert 0 <= width - 129 < divisor
    assert int(batch.pixels.sum()) == 3 * (33 * 5 + 129)


def test_bccd_fits_and_covers(bccd: Path, tmp_path: Path) -> None:
    from tests.data.makers import datafile

    data = datafile(tmp_path, f"format: voc\nroot: {bccd}\nsplits: {{test: test}}\n").split("test").subset(range(8))
    for images, targets in train_loader(data, InputSize(320, 240), batch=4, seed=0, augmentation=STRONG, workers=0):
        assert images.pixels.shape[2:] in {(256, 320), (256, 288), (224, 320), (224, 288), (192, 256)}
        limit = images.sizes[:, [1, 0, 1, 0]][:, None].expand_as(targets.boxes)[targets.valid]
        assert (targets.boxes[targets.valid] <= limit).all()
        assert targets.valid.sum() > 10
