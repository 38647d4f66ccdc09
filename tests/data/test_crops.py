from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms.v2 import functional as F

from detsearch.data.crop_loader import LabelledBatch, crop_eval_loader, crop_train_loader
from detsearch.data.crops import LONGEST, CropAugmentation, RandomCrop, centre_crop, usual_resize
from detsearch.data.image_folders import read_split
from detsearch.errors import DataError
from tests.data.folders import coloured, image_folders

STRONG = CropAugmentation(brightness=0.4, contrast=0.4, saturation=0.4)
PLAIN = CropAugmentation(scale=(1, 1), ratio=(1, 1), horizontal_flip=0)


def noise(height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels)


def test_the_middle_is_that_of_the_usual_evaluation() -> None:
    """Short side 256, the middle 224, as torchvision's presets have it."""
    assert [usual_resize(size) for size in (224, 160, 192, 32)] == [256, 183, 219, 37]
    for shape in ((300, 500), (500, 300), (224, 224), (30, 41)):
        pixels = noise(*shape)
        expected = F.center_crop(F.resize(pixels, [256], antialias=True), [224, 224])
        assert torch.equal(centre_crop(pixels, 224, 256), expected)
    ramp = torch.arange(100, dtype=torch.uint8).expand(3, 100, 100)
    assert torch.equal(centre_crop(ramp, 60, 100)[0, 0], torch.arange(20, 80, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(1, 1), (1, 50_000), (50_000, 1), (3, 2000)])
def test_strips_of_any_length_take_little(shape: tuple[int, int]) -> None:
    """Scaled whole, 1 x 50000 pixels would become 256 x 12.8 million."""
    assert centre_crop(noise(*shape), 32, 37).shape == (3, 32, 32)
    assert RandomCrop(32, STRONG)(noise(*shape), 1).shape == (3, 32, 32)
    assert LONGEST > 1


def test_a_random_crop_depends_on_its_seed_alone() -> None:
    crop, pixels = RandomCrop(32, STRONG), noise(60, 80)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = crop(pixels, 7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(crop(pixels, 7), first)
    others = [crop(pixels, seed) for seed in range(20)]
    assert not any(torch.equal(a, b) for i, a in enumerate(others) for b in others[:i])
    assert (first.dtype, first.shape) == (torch.uint8, (3, 32, 32))


def test_nothing_drawn_is_a_resize() -> None:
    pixels = noise(50, 50)
    assert torch.equal(RandomCrop(32, PLAIN)(pixels, 3), F.resize(pixels, [32, 32], antialias=True))
    flipped = PLAIN.model_copy(update={"horizontal_flip": 1.0})
    assert torch.equal(RandomCrop(32, flipped)(pixels, 3), F.resize(pixels, [32, 32], antialias=True).flip(2))


@pytest.mark.parametrize(
    "wrong", [{"scale": (0.5, 0.2)}, {"ratio": (2, 1)}, {"scale": (0, 1)}, {"scale": (0.1, 1.5)}, {"flip": 1}]
)
def test_ranges(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CropAugmentation.model_validate(wrong)


def _same(one: list[LabelledBatch], other: list[LabelledBatch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a[0].pixels, b[0].pixels) and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True)
    )


def test_batches_of_crops(tmp_path: Path) -> None:
    """13 images of sizes of their own, at epochs 0 and 1: shuffled, whole batches only, the same from workers; from the
    middle; in two shares."""
    root = image_folders(tmp_path, train=4)
    coloured(root / "train" / "red" / "large.jpg", 0, 0, (90, 30))
    data = read_split(root, "train")

    def loaded(epoch: int, start: int = 0, **more: object) -> list[LabelledBatch]:
        how = {"batch": 4, "seed": 5, "augmentation": STRONG, "workers": 0, **more}
        loader = crop_train_loader(data, 32, **how)  # type: ignore[arg-type]
        assert len(loader) == 3
        loader.set_epoch(epoch, start)
        return list(loader)

    first = loaded(0)
    for images, labels in first:
        assert (images.pixels.shape, images.pixels.dtype) == ((4, 3, 32, 32), torch.uint8)
        assert images.sizes.tolist() == [[32, 32]] * 4
        assert labels.dtype == torch.int64
        # Colours tell what is right: blue, green and red are labels 0, 1 and 2.
        assert torch.equal(images.pixels.float().mean(dim=(2, 3)).argmax(dim=1), 2 - labels)
    assert _same(first, loaded(0, workers=1))
    assert _same(first[1:], loaded(0, start=1))
    seen = {crop.numpy().tobytes() for images, _ in first for crop in images.pixels}
    for others in (loaded(1), loaded(0, seed=6)):  # none is cut as it was before
        assert seen.isdisjoint(crop.numpy().tobytes() for images, _ in others for crop in images.pixels)
    halves = [loaded(0, share=(number, 2)) for number in (0, 1)]
    for (images, labels), *parts in zip(first, *halves, strict=True):
        assert torch.equal(torch.cat([part[0].pixels for part in parts]), images.pixels)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)

    answered = list(crop_eval_loader(data, 32, resize=36, batch=5, workers=0))
    assert torch.cat([labels for _, labels in answered]).tolist() == data.labels.tolist()
    assert [len(labels) for _, labels in answered] == [5, 5, 3]


def test_an_image_that_breaks_later_is_named(tmp_path: Path) -> None:
    root = image_folders(tmp_path)
    data = read_split(root, "train")
    (root / "train" / "blue" / "1.png").write_bytes(b"gone bad")
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"blue/1\.png"):
            list(crop_eval_loader(data, 32, resize=36, batch=5, workers=workers))


def test_grey_and_transparent_images(tmp_path: Path) -> None:
    root = image_folders(tmp_path)
    Image.new("L", (33, 50)).save(root / "train" / "red" / "0.png")
    Image.new("RGBA", (50, 33)).save(root / "train" / "red" / "1.png")
    data = read_split(root, "train")
    data.check()
    assert sum(len(labels) for _, labels in crop_eval_loader(data, 32, resize=36, batch=5, workers=0)) == 12
