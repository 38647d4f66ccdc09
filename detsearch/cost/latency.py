"""Measured latency: how long a runtime takes from a uint8 image on its device to detections.

The default protocol: batch 1, a random image of the padded input size that lies on the device, every stage from
normalisation to NMS at the nominal load; reading, decoding, resizing and transfer of the image are outside. Measured
under the exclusive lock of the device, after warming up, with the garbage collector off.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from detsearch.cost import device_lock
from detsearch.nn.nominal import NOMINAL_CANDIDATES
from detsearch.nn.structures import ImageBatch
from detsearch.runtime.base import Runtime
from detsearch.types import InputSize, Latency, LatencyProtocol

INCLUDES: Final = (
    f"normalisation, network, box decoding and NMS of {NOMINAL_CANDIDATES} boxes a level, in two-stage heads of "
    f"{NOMINAL_CANDIDATES} boxes of all proposals, with as many proposals and masks as there can be; image as uint8 on "
    "the device"
)
EXCLUDES: Final = "reading and decoding the image file, resizing and padding, transfer to the device"

DRIFT: Final = 0.05
"""Steady: the medians of the first and of the second half differ by at most this share of the median, ..."""
SPREAD: Final = 0.15
"""... and so does the interquartile range from zero, by at most this."""
REPEATS: Final = 3
"""Of a measurement that is not steady."""
SEED: Final = 0


def measure(
    runtime: Runtime,
    input: InputSize,
    *,
    batch: int = 1,
    warmup: int = 5,
    runs: int = 20,
    seconds: float = 1.0,
    limit: float = 20.0,
    threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Median and interquartile range in milliseconds per batch at `input`.

    Warm-up goes on until two successive groups of `warmup` calls agree, for at most three times `seconds`. Then come at
    least `runs` calls and at least `seconds`, but no more than `limit` seconds as soon as three calls are done. A
    measurement that is not steady is repeated up to `REPEATS` times, and the steadiest one is given. `threads` sets
    PyTorch's intra-op threads meanwhile. `clock` gives seconds.
    """
    assert min(batch, warmup, runs) >= 1, "counts are positive"
    size = input.padded()
    images = _images(size, batch, runtime.device)
    with _alone(runtime, threads):
        warm = _warm_up(runtime, images, clock, warmup, min(limit, 3 * seconds))
        sample = _sample(runtime, images, clock, runs, seconds, limit)
        for _ in range(REPEATS):
            if sample.steady:
                break
            sample = min(sample, _sample(runtime, images, clock, runs, seconds, limit), key=_Sample.unrest)
        protocol = LatencyProtocol(
            device=runtime.device,
            device_name=device_name(runtime.device),
            runtime=runtime.name,
            precision=runtime.precision,
            threads=runtime.threads,
            batch=batch,
            input=str(size),
            warmup=warm,
            runs=len(sample.times),
            includes=INCLUDES,
            excludes=EXCLUDES,
        )
    return Latency(median_ms=sample.median * 1e3, iqr_ms=sample.iqr * 1e3, steady=sample.steady, protocol=protocol)


def device_name(device: str) -> str:
    """What the vendor calls the processor behind ``cpu`` or ``cuda:0``."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True)
class _Sample:
    """Durations in seconds, in the order in which they were taken."""

    times: list[float]

    @property
    def median(self) -> float:
        return float(np.median(self.times))

    @property
    def iqr(self) -> float:
        low, high = np.percentile(self.times, (25, 75))
        return float(high - low)

    @property
    def drift(self) -> float:
        half = len(self.times) // 2
        return float(abs(np.median(self.times[:half]) - np.median(self.times[-half:])))

    def unrest(self) -> float:
        """Of drift and spread the one that is worse, as a multiple of what is allowed."""
        return max(self.drift / DRIFT, self.iqr / SPREAD) / max(self.median, 1e-12)

    @property
    def steady(self) -> bool:
        return self.unrest() <= 1


def _images(size: InputSize, batch: int, device: str) -> ImageBatch:
    """Noise, the same every time."""
    shape = (batch, 3, size.height, size.width)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(SEED))
    return ImageBatch(pixels, torch.tensor([[size.height, size.width]] * batch)).to(device)


@contextmanager
def _alone(runtime: Runtime, threads: int | None) -> Iterator[None]:
    """The device for ourselves, post-processing at the nominal load, no garbage collection, so many threads."""
    before = torch.get_num_threads()
    collecting = gc.isenabled()
    with ExitStack() as undo:
        undo.enter_context(device_lock.exclusive(runtime.device))
        undo.enter_context(runtime.nominal_load())
        if threads is not None:
            torch.set_num_threads(threads)
            undo.callback(torch.set_num_threads, before)
        gc.collect()
        gc.disable()
        if collecting:
            undo.callback(gc.enable)
        yield


def _time(runtime: Runtime, images: ImageBatch, clock: Callable[[], float]) -> float:
    runtime.synchronize()
    start = clock()
    runtime(images)
    runtime.synchronize()
    return clock() - start


def _warm_up(runtime: Runtime, images: ImageBatch, clock: Callable[[], float], group: int, limit: float) -> int:
    """Call until it no longer becomes faster; the number of calls."""
    times: list[float] = []
    while sum(times) < limit or not times:
        times.append(_time(runtime, images, clock))
        if len(times) >= 2 * group:
            before, last = np.median(times[-2 * group : -group]), np.median(times[-group:])
            if abs(before - last) <= DRIFT * last:
                break
    return len(times)


def _sample(
    runtime: Runtime, images: ImageBatch, clock: Callable[[], float], runs: int, seconds: float, limit: float
) -> _Sample:
    times: list[float] = []
    spent = 0.0
    while (len(times) < runs or spent < seconds) and (spent < limit or len(times) < 3):
        times.append(_time(runtime, images, clock))
        spent += times[-1]
    return _Sample(times)
