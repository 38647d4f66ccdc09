"""What a detector costs, without training it: counted, and measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from detsearch.arch.code import format_detector
from detsearch.arch.presets import resolve
from detsearch.arch.spec import DetectorSpec
from detsearch.build import build
from detsearch.cost.count import count_cost
from detsearch.cost.latency import measure
from detsearch.runs.device import resolve_device
from detsearch.runtime.eager import EagerRuntime
from detsearch.training.checkpoint import load_detector
from detsearch.types import InputSize


def describe(spec: DetectorSpec, classes: int) -> dict[str, Any]:
    """Code, sizes and exact cost of a detector, whole and by part."""
    cost = count_cost(build(spec.network, classes), spec.input)
    return {
        "code": format_detector(spec),
        "input": str(spec.input),
        "tensor": str(spec.input.padded()),
        "classes": classes,
        "params": cost.params,
        "macs": cost.macs,
        "memory_access": cost.memory_access,
        "parts": {name: asdict(part) for name, part in cost.parts.items()},
        "regions": dict(cost.regions),
    }


def measure_latency(
    what: str,
    size: InputSize | None,
    classes: int,
    *,
    device: str,
    threads: int | None,
    runs: int,
    seconds: float,
) -> dict[str, Any]:
    """Latency of whatever `resolve` reads, or of the detector in a checkpoint, at its own input size or at `size`."""
    device = resolve_device(device)
    if Path(what).suffix == ".pt":
        detector, meta = load_detector(Path(what))
        spec = meta.spec(size)
    else:
        spec = resolve(what, size)
        detector = build(spec.network, classes)
    runtime = EagerRuntime(detector, device)
    found = measure(runtime, spec.input, runs=runs, seconds=seconds, threads=threads)
    return {"code": format_detector(spec), **asdict(found), "runs": found.protocol.runs}
