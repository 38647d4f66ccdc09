from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.cost import device_lock, latency
from detsearch.cost.latency import REPEATS, measure
from detsearch.nn.structures import Detections, ImageBatch
from detsearch.runtime.eager import EagerRuntime
from detsearch.types import CostMetrics, InputSize

SIZE = InputSize(60, 50)


class Scripted:
    """A runtime whose calls take the given seconds, by its own clock; remembers what happened."""

    name, device, precision, threads = "scripted", "cpu", "float32", 1

    def __init__(self, durations: Iterator[float]) -> None:
        self.durations, self.now = durations, 0.0
        self.events: list[str] = []
        self.images: list[ImageBatch] = []
        self.loaded = False

    def __call__(self, images: ImageBatch) -> Detections:
        assert self.loaded, "called outside the nominal load"
        assert not gc.isenabled()
        self.images.append(images)
        self.events.append("call")
        self.pending = next(self.durations)
        return None  # type: ignore[return-value]

    def synchronize(self) -> None:
        self.events.append("synchronize")
        self.now += getattr(self, "pending", 0.0)  # work is done when it is waited for
        self.pending = 0.0

    @contextmanager
    def nominal_load(self) -> Iterator[None]:
        self.loaded = True
        yield
        self.loaded = False

    def clock(self) -> float:
        self.events.append("clock")
        return self.now


def scripted(*durations: float, then: float) -> Scripted:
    return Scripted(chain(durations, repeat(then)))


def test_median_and_iqr_of_known_durations():
    cycle = [0.010, 0.0102, 0.0104, 0.0106, 0.0108]
    runtime = Scripted(chain(repeat(0.01, 10), *([cycle] * 4), repeat(None)))
    found = measure(runtime, SIZE, warmup=5, runs=20, seconds=0.1, clock=runtime.clock)
    assert found.median_ms == pytest.approx(10.4)
    assert found.iqr_ms == pytest.approx(0.4)
    assert found.steady
    assert found.protocol.warmup == 10
    assert found.protocol.runs == 20
    assert not runtime.loaded


def test_the_device_is_waited_for_before_each_look_at_the_clock():
    runtime = scripted(then=0.01)
    measure(runtime, SIZE, runs=3, seconds=0.0, clock=runtime.clock)
    cycle = ["synchronize", "clock", "call", "synchronize", "clock"]
    assert runtime.events == cycle * (len(runtime.events) // 5)


def test_warm_up_lasts_until_it_no_longer_becomes_faster():
    falling = [1.0 * 0.8**i for i in range(20)]
    runtime = scripted(*falling, then=falling[-1])
    found = measure(runtime, SIZE, warmup=2, runs=10, seconds=100.0, limit=1e9, clock=runtime.clock)
    assert found.protocol.warmup >= 20
    assert found.iqr_ms == pytest.approx(0, abs=1e-6)


def test_warm_up_ends_where_it_never_settles():
    growing = (0.1 * 1.2**i for i in range(10_000))
    runtime = Scripted(chain(growing))
    found = measure(runtime, SIZE, warmup=2, runs=4, seconds=1.0, limit=50.0, clock=runtime.clock)
    assert found.protocol.warmup <= 12
    assert not found.steady


def test_at_least_so_many_runs_and_so_many_seconds():
    fast, slow = scripted(then=0.001), scripted(then=0.5)
    assert measure(fast, SIZE, runs=20, seconds=1.0, clock=fast.clock).protocol.runs == pytest.approx(1000, abs=2)
    assert measure(slow, SIZE, runs=20, seconds=1.0, clock=slow.clock).protocol.runs == 20


def test_a_slow_detector_is_not_measured_beyond_the_limit():
    runtime = scripted(then=3.0)
    assert measure(runtime, SIZE, limit=10.0, clock=runtime.clock).protocol.runs == 4
    runtime = scripted(then=30.0)
    found = measure(runtime, SIZE, limit=10.0, clock=runtime.clock)
    assert (found.protocol.warmup, found.protocol.runs) == (1, 3)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_drifting_clock_is_not_steady(factor):
    levels = [0.01 * factor**i for i in (0, 1)]
    both = [*repeat(levels[0], 10), *repeat(levels[1], 10)]
    runtime = scripted(*repeat(0.01, 10), *both * (1 + REPEATS), then=0.0)
    found = measure(runtime, SIZE, runs=20, seconds=0.1, clock=runtime.clock)
    assert not found.steady
    assert len(runtime.images) == 10 + 20 * (1 + REPEATS)  # warm-up, the measurement, its repetitions


def test_a_wide_spread_is_not_steady():
    runtime = scripted(*repeat(0.01, 10), *[0.01, 0.013] * 10 * (1 + REPEATS), then=0.0)
    assert not measure(runtime, SIZE, runs=20, seconds=0.1, clock=runtime.clock).steady


def test_a_disturbed_measurement_is_repeated_until_it_is_steady():
    runtime = scripted(*repeat(0.01, 10), *[0.01, 0.02] * 10, then=0.011)
    found = measure(runtime, SIZE, runs=20, seconds=0.1, clock=runtime.clock)
    assert found.steady
    assert found.median_ms == pytest.approx(11)
    runtime = scripted(*repeat(0.01, 10), *[0.01, 0.013] * 10, *[0.01, 0.02] * 10 * REPEATS, then=0.0)
    found = measure(runtime, SIZE, runs=20, seconds=0.1, clock=runtime.clock)
    assert not found.steady
    assert found.median_ms == pytest.approx(11.5)


@settings(max_examples=25)
@given(st.lists(st.floats(0.1, 1.0), min_size=4, max_size=40))
def test_statistics_are_those_of_the_standard_library(durations):
    count = len(durations)
    runtime = scripted(*repeat(0.01, 2), *durations * (1 + REPEATS), then=0.0)  # steady or not, the same
    found = measure(runtime, SIZE, warmup=1, runs=count, seconds=0.1, limit=1e9, clock=runtime.clock)
    low, _, high = statistics.quantiles(durations, n=4, method="inclusive")
    assert found.median_ms == pytest.approx(1e3 * statistics.median(durations), rel=1e-6)
    assert found.iqr_ms == pytest.approx(1e3 * (high - low), rel=1e-6, abs=1e-6)
    assert found.protocol.runs == count


def test_the_image_is_seeded_noise_of_the_padded_size():
    first, second = scripted(then=0.01), scripted(then=0.01)
    found = measure(first, SIZE, batch=2, runs=3, seconds=0.1, clock=first.clock)
    measure(second, SIZE, batch=2, runs=3, seconds=0.1, clock=second.clock)
    images = first.images[0]
    assert images.pixels.shape == (2, 3, 64, 64)
    assert images.pixels.dtype == torch.uint8
    assert images.sizes.tolist() == [[64, 64]] * 2
    assert torch.equal(images.pixels, second.images[0].pixels)
    assert images.pixels.unique().numel() > 250
    assert (found.protocol.batch, found.protocol.input) == (2, "64x64")


def test_everything_is_restored_even_after_a_failure():
    runtime = Scripted(iter([0.01]))  # fails at the second call
    threads = torch.get_num_threads()
    with pytest.raises(StopIteration):
        measure(runtime, SIZE, threads=threads + 1, clock=runtime.clock)
    assert gc.isenabled()
    assert torch.get_num_threads() == threads
    with device_lock.shared("cpu"):
        pass


def test_measured_under_the_exclusive_lock(monkeypatch):
    runtime = scripted(then=0.01)
    inside = []

    @contextmanager
    def lock(device: str) -> Iterator[None]:
        inside.append((device, len(runtime.images)))
        yield
        inside.append((device, len(runtime.images)))

    monkeypatch.setattr(device_lock, "exclusive", lock)
    measure(runtime, SIZE, runs=3, seconds=0.1, clock=runtime.clock)
    assert inside == [("cpu", 0), ("cpu", len(runtime.images))]


def test_a_real_detector():
    built = build(parse_network("basicblock_16_1-21-21-12/fpn(levels=3-4-5,width=32)/retinanet(depth=1)"), 3)
    found = measure(EagerRuntime(built), SIZE, warmup=2, runs=5, seconds=0.15, threads=2)
    assert 0.1 < found.median_ms < 5000
    protocol = found.protocol
    assert (protocol.device, protocol.runtime, protocol.precision) == ("cpu", "eager", "float32")
    assert (protocol.threads, protocol.batch, protocol.input) == (2, 1, "64x64")
    assert protocol.device_name == latency.device_name("cpu") != ""
    assert "NMS" in protocol.includes
    assert "decoding" in protocol.excludes
    metrics = CostMetrics(params=1, macs=1, memory_access=1, latency=found)
    assert CostMetrics.from_json(metrics.to_json()) == metrics


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_detector_on_cuda():
    built = build(parse_network("basicblock_16_1-21-21-12/fpn(levels=3-4-5,width=32)/retinanet(depth=1)"), 3)
    found = measure(EagerRuntime(built, "cuda:0"), SIZE, runs=5, seconds=0.15)
    assert found.protocol.threads == 0
    assert found.protocol.device_name == torch.cuda.get_device_name(0)
