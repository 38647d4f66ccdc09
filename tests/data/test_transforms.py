"""Boxes and masks move with the pixels, whatever is done to an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detsearch.data import transforms
from detsearch.data.transforms import Augmentation, Sample, augment, crop, prepare, prepared_size, resize
from detsearch.types import InputSize

sides = st.integers(1, 90)
rngs = st.integers(0, 2**32).map(np.random.default_rng)


@st.composite
def samples(draw: st.DrawFn, smallest: int = 1) -> Sample:
    """A black image with one painted rectangle, which its box covers exactly."""
    width, height = draw(st.integers(smallest, 90)), draw(st.integers(smallest, 90))
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x2, y2 = draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))
    pixels = torch.zeros((3, height, width), dtype=torch.uint8)
    pixels[:, y1:y2, x1:x2] = 255
    box = torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32)
    return Sample(pixels, box, torch.tensor([3]), pixels[:1] // 255)


def painted(sample: Sample) -> torch.Tensor:
    """The box around the painted pixels, with the part of an edge pixel that is painted."""
    rows, columns = sample.pixels[0].float().amax(dim=1), sample.pixels[0].float().amax(dim=0)
    corners = []
    for line in (columns, rows):
        line = line / line.max().clamp(min=1)
        seen = torch.nonzero(line > 0.02).flatten()
        first, last = int(seen[0]), int(seen[-1])
        corners.append((first + 1 - float(line[first]), last + float(line[last])))
    return torch.tensor([corners[0][0], corners[1][0], corners[0][1], corners[1][1]])


def mask_fits_box(sample: Sample) -> bool:
    """Whether the mask has the pixels whose centre lies in the box, but for those that lie on its edge."""
    assert sample.masks is not None
    x1, y1, x2, y2 = sample.boxes[0].tolist()
    xs, ys = torch.arange(sample.width) + 0.5, torch.arange(sample.height) + 0.5
    expected = (((ys > y1) & (ys < y2))[:, None] & ((xs > x1) & (xs < x2))).to(torch.uint8)
    edges = (
        torch.stack([(xs - x1).abs(), (xs - x2).abs()]).amin(0),
        torch.stack([(ys - y1).abs(), (ys - y2).abs()]).amin(0),
    )
    clear = (edges[1] > 1e-3)[:, None] & (edges[0] > 1e-3)
    return bool((sample.masks[0] == expected)[clear].all())


def inside(sample: Sample) -> bool:
    limit = torch.tensor([sample.width, sample.height] * 2)
    ordered = (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    return bool((sample.boxes >= 0).all() and (sample.boxes <= limit).all() and ordered)


@given(samples(), st.sampled_from(["flip_horizontal", "flip_vertical"]))
def test_a_flip_moves_box_with_pixels_and_twice_is_identity(sample: Sample, name: str) -> None:
    flip = getattr(transforms, name)
    once = flip(sample)
    assert torch.equal(painted(once), once.boxes[0])
    twice = flip(once)
    assert torch.equal(twice.pixels, sample.pixels)
    assert torch.equal(twice.boxes, sample.boxes)
    assert once.masks is not None
    assert torch.equal(once.masks, once.pixels[:1] // 255)


@given(samples(), st.data())
def test_a_crop_keeps_what_is_seen(sample: Sample, data: st.DataObject) -> None:
    left, top = data.draw(st.integers(0, sample.width - 1)), data.draw(st.integers(0, sample.height - 1))
    width, height = data.draw(st.integers(1, sample.width - left)), data.draw(st.integers(1, sample.height - top))
    cut = crop(sample, left, top, width, height)
    assert cut.pixels.shape == (3, height, width)
    area = (sample.pixels[0] > 0).sum()
    seen = (cut.pixels[0] > 0).sum()
    if seen < transforms.MIN_VISIBLE * area:
        assert len(cut.boxes) == len(cut.labels) == len(cut.masks) == 0
    else:
        assert torch.equal(cut.boxes[0], painted(cut))
        assert cut.labels.tolist() == [3]
        assert torch.equal(cut.masks, cut.pixels[:1] // 255)
        assert inside(cut)


@pytest.mark.parametrize(("left", "kept"), [(69, True), (71, False)])
def test_a_box_of_which_less_than_three_tenths_are_left_is_dropped(left: int, kept: bool) -> None:
    box = torch.tensor([[0.0, 5.0, 100.0, 25.0]])
    cut = crop(Sample(torch.zeros((3, 40, 200), dtype=torch.uint8), box, torch.tensor([1])), left, 0, 100, 40)
    assert cut.boxes.tolist() == ([[0.0, 5.0, 100.0 - left, 25.0]] if kept else [])


@given(samples(smallest=8), st.integers(8, 120), st.integers(8, 120))
def test_a_resize_moves_box_with_pixels(sample: Sample, width: int, height: int) -> None:
    result = resize(sample, width, height)
    assert result.pixels.shape == (3, height, width)
    assert inside(result)
    assert mask_fits_box(result)
    scale = max(width / sample.width, height / sample.height, 1)
    assert (painted(result) - result.boxes[0]).abs().max() <= 1 + scale  # bilinear: half a pixel of each grid


@given(samples(), rngs, st.integers(1, 100), st.integers(1, 100), st.floats(0.1, 1), st.floats(1, 10))
def test_augmented_images_fit_the_input_and_boxes_the_image(
    sample: Sample, rng: np.random.Generator, width: int, height: int, low: float, high: float
) -> None:
    size = InputSize(width, height)
    settings = Augmentation(
        horizontal_flip=0.5, vertical_flip=0.5, scale=(low, high), brightness=0.5, contrast=0.5, saturation=0.5
    )
    result = augment(sample, size, settings, rng)
    assert result.pixels.dtype == torch.uint8
    assert max(result.width, result.height) <= max(width, height)
    assert min(result.width, result.height) <= min(width, height)
    assert inside(result)
    assert (result.boxes[:, 2:] - result.boxes[:, :2] >= transforms.MIN_SIDE).all()
    assert len(result.boxes) == len(result.labels) == len(result.masks)
    assert result.masks.shape[1:] == result.pixels.shape[1:]


@given(samples(smallest=30), rngs)
def test_the_whole_augmentation_moves_box_with_pixels(sample: Sample, rng: np.random.Generator) -> None:
    settings = Augmentation(horizontal_flip=0.5, vertical_flip=0.5, scale=(0.5, 2.0))
    result = augment(sample, InputSize(80, 60), settings, rng)
    if len(result.boxes):
        assert mask_fits_box(result)
        scale = max(80 / sample.width, 80 / sample.height) * 2
        assert (painted(result) - result.boxes[0]).abs().max() <= 1 + max(1, scale)


@given(sides, sides, sides, sides, st.floats(1, 4))
def test_prepared_size_is_the_fitted_or_larger_but_never_blown_up(
    width: int, height: int, box_w: int, box_h: int, enlarge: float
) -> None:
    size = InputSize(box_w, box_h)
    fitted, prepared = size.fit(width, height), prepared_size(width, height, size, enlarge)
    assert prepared_size(width, height, size) == fitted
    assert size.fit(*fitted) == fitted  # so that without jitter an image is resized once
    for i, stored in enumerate((width, height)):
        assert fitted[i] <= prepared[i] <= max(fitted[i], stored)
    assert prepare(torch.zeros((3, height, width), dtype=torch.uint8), size, enlarge).shape[1:] == prepared[::-1]


@pytest.mark.parametrize(("height", "width"), [(3, 1), (1, 3), (1, 1), (7, 1), (5, 4)])
def test_resizing_to_few_pixels_keeps_a_plain_colour(height: int, width: int) -> None:
    plain = torch.tensor([10, 100, 200], dtype=torch.uint8)[:, None, None]
    sample = Sample(plain.expand(3, 6, 5).contiguous(), torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64))
    assert torch.equal(resize(sample, width, height).pixels, plain.expand(3, height, width))


def test_portrait_turns_the_box() -> None:
    size = InputSize(64, 48)
    assert prepare(torch.zeros((3, 128, 96), dtype=torch.uint8), size).shape == (3, 64, 48)
    portrait = Sample(
        torch.zeros((3, 64, 48), dtype=torch.uint8), torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64)
    )
    enlarged = augment(portrait, size, Augmentation(scale=(1.0, 10.0)), np.random.default_rng(1))
    assert enlarged.pixels.shape == (3, 64, 48)
    assert enlarged.boxes.shape == (0, 4)


def test_without_augmentation_nothing_changes() -> None:
    pixels = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    sample = Sample(pixels, torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.tensor([1]))
    result = augment(sample, InputSize(64, 48), Augmentation.none(), np.random.default_rng(0))
    assert torch.equal(result.pixels, pixels)
    assert torch.equal(result.boxes, sample.boxes)


def test_factor_one_is_exact_and_flip_probability_holds() -> None:
    pixels = torch.arange(64, dtype=torch.uint8).expand(3, 48, 64)
    sample = Sample(pixels, torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64))
    rng = np.random.default_rng(0)
    flipped = 0
    for _ in range(400):
        result = augment(sample, InputSize(64, 48), Augmentation(horizontal_flip=0.25), rng).pixels
        flipped += int(torch.equal(result, pixels.flip(2)))
        assert torch.equal(result, pixels) or torch.equal(result, pixels.flip(2))
    assert 70 < flipped < 130  # mean 100, standard deviation 8.7


def test_scale_reaches_both_ends() -> None:
    sample = Sample(
        torch.zeros((3, 60, 80), dtype=torch.uint8), torch.tensor([[20.0, 15.0, 60.0, 45.0]]), torch.tensor([0])
    )
    rng = np.random.default_rng(0)
    widths, boxes = [], []
    for _ in range(200):
        result = augment(sample, InputSize(80, 60), Augmentation(horizontal_flip=0, scale=(0.5, 2.0)), rng)
        widths.append(result.width)
        boxes += (result.boxes[:, 2] - result.boxes[:, 0]).tolist()
    assert min(widths) < 42
    assert max(widths) == 80  # cropped to the box
    assert sum(width == 80 for width in widths) in range(70, 130)  # half of the factors are above 1
    assert max(boxes) > 70
    assert min(boxes) < 22


def test_colour_changes_pixels_only_when_asked() -> None:
    pixels = torch.randint(20, 200, (3, 20, 20), dtype=torch.uint8)
    sample = Sample(pixels, torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64))
    for name in ("brightness", "contrast", "saturation"):
        settings = Augmentation(horizontal_flip=0, **{name: 0.5})
        assert not torch.equal(augment(sample, InputSize(20, 20), settings, np.random.default_rng(3)).pixels, pixels)


@pytest.mark.parametrize(
    "values", [{"scale": (1.1, 1.2)}, {"scale": (0.5, 0.9)}, {"horizontal_flip": 1.5}, {"flip": 0.5}, {"contrast": -1}]
)
def test_settings_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Augmentation.model_validate(values)
