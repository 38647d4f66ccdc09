"""What every runtime must do. A test module derives from `RuntimeContract` and says how its runtime is made."""

from __future__ import annotations

import copy

import pytest
import torch

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.nn.detector import Detector
from detsearch.nn.structures import Detections, ImageBatch
from detsearch.runtime.base import Runtime

NETWORK = "basicblock_16_1-21-21-12/fpn(levels=3-4-5,width=32)/retinanet(depth=1)"
CLASSES = 3


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Small, untrained, with thresholds and biases such that it finds something and leaves something out."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build(parse_network(NETWORK), CLASSES)
        made.head.score_threshold = 0.0
        found = made.eval().detect(noise((2, 64, 96)))
    made.head.score_threshold = float(found.scores[found.valid].median())
    return made


def noise(shape: tuple[int, int, int], sizes: list[tuple[int, int]] | None = None) -> ImageBatch:
    batch, height, width = shape
    pixels = torch.randint(
        0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return ImageBatch(pixels, torch.tensor(sizes or [(height, width)] * batch))


def _values(found: Detections) -> list[torch.Tensor]:
    """The answer's tensors; without masks, which this detector does not draw."""
    assert found.masks is None
    assert found.mask_scores is None
    return [found.boxes, found.scores, found.labels, found.valid]


class RuntimeContract:
    pixels = 1e-3
    """Boxes may differ from the detector's own by this much, ..."""
    scores = 1e-5
    """... and scores by this much."""

    def make(self, detector: Detector) -> Runtime:
        """The runtime under test, running `detector`."""
        raise NotImplementedError

    @pytest.fixture
    def runtime(self, detector: Detector) -> Runtime:
        return self.make(detector)

    def test_says_what_it_is(self, runtime):
        assert isinstance(runtime, Runtime)
        assert runtime.name
        assert runtime.precision
        assert runtime.device.partition(":")[0] in ("cpu", "cuda")
        assert isinstance(runtime.threads, int)
        assert runtime.threads >= (runtime.device == "cpu")

    @pytest.mark.parametrize("shape", [(1, 64, 96), (2, 64, 96), (1, 32, 32)])
    def test_shapes_types_and_place(self, runtime, shape):
        found = runtime(noise(shape))
        runtime.synchronize()
        rows = found.scores.shape[1]
        assert found.boxes.shape == (shape[0], rows, 4)
        assert found.scores.shape == found.labels.shape == found.valid.shape == (shape[0], rows)
        assert found.labels.dtype == torch.int64
        assert found.valid.dtype == torch.bool
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert all(values.device == torch.device(runtime.device) for values in _values(found))
        assert not found.boxes.requires_grad
        assert not found.scores.requires_grad

    def test_rows_are_ordered_and_padding_is_zero(self, runtime):
        found = runtime(noise((2, 64, 96), [(64, 96), (50, 40)])).to("cpu")
        for boxes, scores, labels, valid in zip(*_values(found), strict=True):
            count = int(valid.sum())
            assert count > 0
            assert valid[:count].all()
            assert (scores[:count].diff() <= 0).all()
            assert ((labels >= 0) & (labels < CLASSES)).all()
            assert not boxes[count:].any()
            assert not scores[count:].any()
            assert not labels[count:].any()
        assert (found.boxes[1] <= torch.tensor([40.0, 50, 40, 50])).all()
        assert (found.boxes >= 0).all()

    def test_answers_what_the_detector_answers(self, runtime, detector):
        images = noise((2, 64, 96), [(64, 96), (50, 40)])
        found = runtime(images).to("cpu")
        with torch.no_grad():
            same_matched(found, detector.to("cpu").detect(images), self.pixels, self.scores)

    def test_answers_the_same_again(self, runtime):
        first, second = runtime(noise((1, 64, 96))).to("cpu"), runtime(noise((1, 64, 96))).to("cpu")
        assert all(torch.equal(a, b) for a, b in zip(_values(first), _values(second), strict=True))

    def test_leaves_its_input_alone(self, runtime):
        images = noise((1, 64, 96))
        runtime(images)
        assert torch.equal(images.pixels, noise((1, 64, 96)).pixels)

    def test_nominal_load_lets_low_scores_pass_and_ends(self, detector):
        silent = copy.deepcopy(detector)
        silent.head.score_threshold = 1.0
        runtime = self.make(silent)
        images = noise((1, 64, 96))
        assert not runtime(images).valid.any()
        with runtime.nominal_load():
            assert runtime(images).valid.any()
        with pytest.raises(ZeroDivisionError), runtime.nominal_load():
            raise ZeroDivisionError
        assert not runtime(images).valid.any()


def same_matched(found: Detections, expected: Detections, pixels: float, scores: float) -> None:
    """The same detections, but for the order of near ties."""
    assert torch.equal(found.valid.sum(1), expected.valid.sum(1))
    for image in range(len(found)):
        for label in range(CLASSES):
            ours, theirs = (d.boxes[image][d.valid[image] & (d.labels[image] == label)] for d in (found, expected))
            assert len(ours) == len(theirs)
            if len(ours):
                distance = (ours[:, None] - theirs[None]).abs().amax(-1)
                assert distance.amin(0).max() <= pixels
                assert distance.amin(1).max() <= pixels
    assert (found.scores - expected.scores).abs().max() <= scores
