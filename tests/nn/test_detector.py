from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.nn.detector import Detector
from detsearch.nn.ops.pixels import MEAN, STD
from detsearch.nn.structures import Detections, ImageBatch
from tests.nn.scenes import random_images, random_targets

SLIM = "basicblock_16_1-21-21-2/fpn(levels=3-4-5,width=64)/retinanet(depth=2)"


def _detector(text: str = f"{SLIM}/gn_ws", seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return build(parse_network(text), 3)


@pytest.mark.parametrize("block", ["basicblock", "bottleneck", "Xbottleneck", "mbblock"])
@pytest.mark.parametrize("norm", ["", "/gn", "/gn_ws"])
@pytest.mark.parametrize(
    ("sizes", "padded", "counts"),
    [([(96, 90), (64, 96)], (96, 96), [2, 0]), ([(101, 131)], (101, 131), [3]), ([(96, 96)], (96, 96), [0])],
    ids=["two", "one of odd size", "one without objects"],
)
def test_forward_and_backward(
    block: str, norm: str, sizes: list[tuple[int, int]], padded: tuple[int, int], counts: list[int]
) -> None:
    detector = _detector(f"{block}_16_1-2-21-2/fpn(levels=3-5-6,width=64)/retinanet(depth=1){norm}")
    images, targets = random_images(sizes, padded), random_targets(counts, sizes, 3)
    losses = detector(images, targets)
    assert isinstance(losses, dict)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or (name.startswith(("head.box", "head.towers.box")) and not any(counts)), name
    found = detector.eval()(images)
    assert isinstance(found, Detections)
    assert found.boxes.isfinite().all()
    assert found.boxes.shape == (len(sizes), 300, 4)


def test_pixels_are_normalised_and_the_padding_is_zero() -> None:
    detector = _detector()
    images = random_images([(40, 64), (64, 33)], (64, 64))
    found = detector.normalise(images)
    assert torch.equal(found.sizes, images.sizes)
    for i, (height, width) in enumerate(images.sizes.tolist()):
        pixels = images.pixels[i, :, :height, :width].float() / 255
        expected = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        torch.testing.assert_close(found.pixels[i, :, :height, :width], expected)
        assert not found.pixels[i, :, height:].any()
        assert not found.pixels[i, :, :, width:].any()
    assert detector.normalise(found) is found
    assert images.pixels.dtype == torch.uint8


def test_what_lies_in_the_padding_does_not_matter() -> None:
    detector = _detector().eval()
    detector.head.score_threshold = 0.0  # type: ignore[attr-defined]
    a = random_images([(50, 64), (64, 41)], (64, 64))
    b = ImageBatch(a.pixels.clone(), a.sizes)
    for i, (height, width) in enumerate(a.sizes.tolist()):
        b.pixels[i, :, height:] = 255
        b.pixels[i, :, :, width:] = 0
    x, y = detector.detect(a), detector.detect(b)
    assert torch.equal(x.boxes, y.boxes)
    assert torch.equal(x.scores, y.scores)


def test_an_image_does_not_see_its_neighbours() -> None:
    """Alone or in a batch of the same padded size, an image gets the same answers."""
    detector = _detector().double().eval()
    detector.head.score_threshold = 0.0  # type: ignore[attr-defined]
    batch = random_images([(50, 64), (64, 41)], (64, 64))
    together = detector.detect(batch)
    for i in range(2):
        alone = detector.detect(ImageBatch(batch.pixels[i : i + 1], batch.sizes[i : i + 1]))
        torch.testing.assert_close(alone.boxes[0], together.boxes[i], rtol=0, atol=1e-8)
        assert torch.equal(alone.labels[0], together.labels[i])


def test_memory_format_does_not_matter() -> None:
    plain = _detector().double().eval()
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, targets = random_images([(64, 64)], (64, 64)), random_targets([3], [(64, 64)], 3)
    for name, loss in plain.losses(images, targets).items():
        torch.testing.assert_close(last.losses(images, targets)[name], loss)


def test_bfloat16_autocast() -> None:
    detector = _detector()
    images, targets = random_images([(64, 64)], (64, 64)), random_targets([3], [(64, 64)], 3)
    exact = detector.losses(images, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector.losses(images, targets)
        found = detector.detect(images)
    assert found.boxes.dtype == torch.float32
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact[name], rtol=0.05, atol=0.01)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


def test_training_after_inference_mode() -> None:
    detector = _detector()
    images, targets = random_images([(64, 64)], (64, 64)), random_targets([1], [(64, 64)], 3)
    with torch.inference_mode():
        detector.detect(images)
    torch.stack(list(detector.losses(images, targets).values())).sum().backward()


def test_parts() -> None:
    detector = _detector()
    parts = detector.parts()
    assert list(parts) == ["backbone", "neck", "head"]
    assert parts["head"] is detector.head
    assert sum(p.numel() for part in parts.values() for p in part.parameters()) == sum(
        p.numel() for p in detector.parameters()
    )
    assert not set(detector.state_dict()) & {"mean", "std"}


def test_a_slim_detector_learns_one_image() -> None:
    """The loss and its gradient point the right way: a few steps on one image find its objects."""
    detector = _detector("basicblock_8_1-2-2-2/fpn(levels=3-4,width=32)/retinanet(depth=1)/gn_ws")
    images = ImageBatch(torch.full((1, 3, 64, 64), 90, dtype=torch.uint8), torch.tensor([[64, 64]]))
    images.pixels[0, 0, 4:32, 2:30] = 230
    images.pixels[0, 2, 30:60, 24:62] = 230
    boxes, labels = torch.tensor([[2.0, 4, 30, 32], [24, 30, 62, 60]]), torch.tensor([0, 2])
    targets = type(random_targets([0], [(9, 9)], 1)).from_lists([boxes], [labels])
    optimiser = torch.optim.AdamW(detector.parameters(), 2e-3)
    for _ in range(60):
        optimiser.zero_grad()
        torch.stack(list(detector.losses(images, targets).values())).sum().backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimiser.step()
    found = detector.eval().detect(images)
    best = found.boxes[0, :2][found.labels[0, :2].argsort()]
    assert found.labels[0, :2].sort().values.tolist() == [0, 2]
    assert (best - boxes).abs().max() < 4
