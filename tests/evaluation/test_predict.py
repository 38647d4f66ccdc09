from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detsearch.data.masks import decode
from detsearch.evaluation.predict import predict, to_original
from detsearch.nn.structures import Detections, ImageBatch
from detsearch.types import InputSize
from tests.evaluation.cases import record


def _detections(boxes: list[list[list[float]]]) -> Detections:
    """Per image a list of boxes, padded to the longest."""
    most = max(map(len, boxes))
    padded = torch.zeros(len(boxes), most, 4)
    valid = torch.zeros(len(boxes), most, dtype=torch.bool)
    for i, image in enumerate(boxes):
        padded[i, : len(image)] = torch.tensor(image).reshape(-1, 4)
        valid[i, : len(image)] = True
    scores = torch.linspace(1, 0, most).expand(len(boxes), most)
    return Detections(padded, scores * valid, torch.ones(len(boxes), most, dtype=torch.int64) * valid, valid)


class _Echo:
    """A runtime that answers every image's whole valid part."""

    name, device, precision, threads = "echo", "cpu", "float32", 1

    def __call__(self, images: ImageBatch) -> Detections:
        return _detections([[[0.0, 0.0, float(w), float(h)]] for h, w in images.sizes.tolist()])

    def synchronize(self) -> None:
        pass

    def nominal_load(self) -> nullcontext[None]:
        return nullcontext()


def test_the_whole_fitted_image_is_the_whole_original_image() -> None:
    records = [record(4), record(9), record(2)]  # 640x480
    sizes = torch.tensor([[240, 320], [97, 131], [480, 640]])
    batches = [
        (ImageBatch(torch.zeros(2, 3, 256, 320, dtype=torch.uint8), sizes[:2]), records[:2]),
        (ImageBatch(torch.zeros(1, 3, 480, 640, dtype=torch.uint8), sizes[2:]), records[2:]),
    ]
    found = predict(_Echo(), batches)
    assert [p.image_id for p in found] == [4, 9, 2]
    for p in found:
        np.testing.assert_allclose(p.boxes, [[0, 0, 640, 480]], rtol=1e-15)
        assert p.labels.tolist() == [1]


def test_boxes_are_clipped_and_padding_rows_left_out() -> None:
    detections = _detections([[[-5, -5, 330, 250], [10, 20, 30, 40]], []])
    first, second = to_original(detections, torch.tensor([[240, 320], [240, 320]]), [record(1), record(2)])
    np.testing.assert_array_equal(first.boxes, [[0, 0, 640, 480], [20, 40, 60, 80]])
    assert first.scores.tolist() == [1.0, 0.0]
    assert len(second) == 0
    assert second.boxes.shape == (0, 4)


def test_masks_become_pixels_of_the_original_image_of_detections_that_count() -> None:
    detections = _detections([[[10, 20, 300, 240], [-5, 40, 30, 60]], [[0, 0, 100, 50]]])
    masks = torch.rand(2, 2, 28, 28, generator=torch.Generator().manual_seed(0))
    ratings = torch.tensor([[0.25, 0.5], [0.75, 0.0]])
    found = to_original(
        replace(detections, masks=masks, mask_scores=ratings),
        torch.tensor([[240, 320], [240, 320]]),
        [record(1), record(2)],
    )
    assert [len(p.masks or ()) for p in found] == [2, 1]
    for i, p in enumerate(found):
        assert p.mask_scores is not None
        assert p.mask_scores.tolist() == ratings[i, : len(p)].tolist()
        expected = paste_masks_in_image(masks[i, : len(p), None], torch.from_numpy(p.boxes), (480, 640))[:, 0] > 0.5
        assert torch.equal(decode(p.masks or (), (640, 480)), expected.to(torch.uint8))


def test_masks_are_left_where_nobody_asks() -> None:
    class Masked(_Echo):
        def __call__(self, images: ImageBatch) -> Detections:
            plain = super().__call__(images)
            return replace(plain, masks=torch.ones(len(images), 1, 28, 28), mask_scores=plain.scores)

    batch = [(ImageBatch(torch.zeros(1, 3, 48, 64, dtype=torch.uint8), torch.tensor([[48, 64]])), [record(1)])]
    (bare,) = predict(Masked(), batch, masks=False)
    assert bare.masks is bare.mask_scores is None
    (masked,) = predict(Masked(), batch)
    assert masked.masks is not None
    assert decode(masked.masks, (640, 480)).float().mean() > 0.99
    (plain,) = predict(_Echo(), batch)
    assert plain.masks is plain.mask_scores is None


def test_no_detections_at_all() -> None:
    (found,) = to_original(_detections([[]]), torch.tensor([[240, 320]]), [record(1)])
    assert found.boxes.shape == (0, 4)
    assert found.boxes.dtype == np.float64
    assert found.labels.dtype == np.int64


@given(
    st.integers(1, 4000), st.integers(1, 4000), st.integers(32, 1024), st.lists(st.floats(0, 1), min_size=4, max_size=4)
)
def test_fitting_and_back_is_the_identity(width: int, height: int, side: int, corner: list[float]) -> None:
    """A box scaled as the loader scales images, each axis by its own rounded factor, comes back to float32 accuracy."""
    fitted_width, fitted_height = InputSize(side, side).fit(width, height)
    x1, x2 = sorted(value * width for value in corner[:2])
    y1, y2 = sorted(value * height for value in corner[2:])
    sx, sy = fitted_width / width, fitted_height / height
    original = record(1)
    object.__setattr__(original, "width", width)
    object.__setattr__(original, "height", height)
    detections = _detections([[[x1 * sx, y1 * sy, x2 * sx, y2 * sy]]])
    (found,) = to_original(detections, torch.tensor([[fitted_height, fitted_width]]), [original])
    np.testing.assert_allclose(found.boxes, [[x1, y1, x2, y2]], atol=max(width, height) * 1e-6)
