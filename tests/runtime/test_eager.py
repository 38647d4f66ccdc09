from __future__ import annotations

import pytest
import torch

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.errors import ResourceError
from detsearch.nn.nominal import NOMINAL_CANDIDATES
from detsearch.nn.structures import Targets
from detsearch.runtime.eager import EagerRuntime
from tests.contracts.runtime_contract import CLASSES, NETWORK, RuntimeContract, detector, noise

__all__ = ["detector"]  # the contract's fixture


class TestEager(RuntimeContract):
    def make(self, detector):
        return EagerRuntime(detector)


class TestEagerContiguous(RuntimeContract):
    def make(self, detector):
        return EagerRuntime(detector, channels_last=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestEagerOnCuda(RuntimeContract):
    pixels, scores = 0.05, 1e-4

    def make(self, detector):
        return EagerRuntime(detector, "cuda:0")


def test_bfloat16_runs_the_network_and_not_the_boxes_in_half_precision():
    torch.manual_seed(0)
    built = build(parse_network(NETWORK), CLASSES)
    seen = []
    built.head.class_logits.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    found = EagerRuntime(built, precision="bfloat16")(noise((1, 64, 64)))
    assert set(seen) == {torch.bfloat16}
    assert found.boxes.dtype == found.scores.dtype == torch.float32


def test_a_detector_that_was_trained_meanwhile_answers_in_eval_mode():
    built = build(parse_network(NETWORK), CLASSES)
    runtime = EagerRuntime(built)
    expected = runtime(noise((1, 64, 64))).scores
    built.train()
    assert torch.equal(runtime(noise((1, 64, 64))).scores, expected)


def test_training_goes_on_after_an_answer():
    """Nothing made in inference mode stays in the detector: autograd would refuse it."""
    built = build(parse_network(NETWORK), CLASSES)
    EagerRuntime(built, channels_last=False)(noise((1, 64, 64)))
    built.train()
    targets = Targets(
        torch.tensor([[[8.0, 8.0, 40.0, 40.0]]] * 2), torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1).bool()
    )
    sum(built.losses(noise((2, 64, 64)), targets).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cpu:x"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ResourceError, match=f"device: expected .*, got {device}"):
        EagerRuntime(build(parse_network(NETWORK), CLASSES), device)


def test_an_unknown_precision():
    with pytest.raises(ResourceError, match="precision: expected float32 or bfloat16"):
        EagerRuntime(build(parse_network(NETWORK), CLASSES), precision="float8")


def test_the_nominal_load_is_a_hundred_boxes_a_level():
    built = build(parse_network(NETWORK), CLASSES)
    built.head.candidates = 1000
    runtime = EagerRuntime(built)
    with runtime.nominal_load():
        assert (built.head.score_threshold, built.head.candidates) == (0.0, NOMINAL_CANDIDATES)
    assert (built.head.score_threshold, built.head.candidates) == (0.05, 1000)
    built.head.candidates = 10  # a head that admits fewer is not given more work than it ever does
    with runtime.nominal_load():
        assert built.head.candidates == 10
