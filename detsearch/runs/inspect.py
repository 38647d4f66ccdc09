"""What a detector costs, without training it: counted, and measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from detsearch.arch.cells import ORIGINS
from detsearch.arch.code import format_detector, format_module
from detsearch.arch.head_cells import cells_in
from detsearch.arch.presets import IMAGENET, resolve
from detsearch.arch.published import Published, published, published_of_backbone
from detsearch.arch.spec import DetectorSpec, ModuleSpec, Norm
from detsearch.build import build, build_classifier
from detsearch.cost.count import count_classifier, count_cost
from detsearch.cost.latency import measure
from detsearch.runs.device import resolve_device
from detsearch.runtime.eager import EagerRuntime
from detsearch.training.checkpoint import load_detector
from detsearch.types import CostMetrics, InputSize

OBJECTS: Final = 80
CATEGORIES: Final = 1000
"""Classes of COCO and of ImageNet: those of a detector and of a classifier where nobody says."""


def describe(spec: DetectorSpec, classes: int = OBJECTS) -> dict[str, Any]:
    """Code, sizes and exact cost of a detector, whole and by part; the cells in its head with the receptive field of
    every edge, and where each comes from, if that is known; what was published of it, if anything was."""
    cost = count_cost(build(spec.network, classes), spec.input)
    found = _described(format_detector(spec), spec.input, classes, cost)
    found["cells"] = {
        place: {"cell": str(cell), "receptive_fields": cell.receptive_fields(), "origin": ORIGINS.get(cell)}
        for place, cell in cells_in(spec.network.head).items()
    }
    if (figures := published(spec)) is not None:
        found["published"] = _at(figures, spec.input)
    return found


def describe_backbone(
    backbone: ModuleSpec, size: InputSize = IMAGENET, classes: int = CATEGORIES, *, norm: Norm = "bn"
) -> dict[str, Any]:
    """Code, sizes and exact cost of a backbone as a classifier of images of `size`; what was published of it."""
    cost = count_classifier(build_classifier(backbone, classes, norm), size.padded())
    found = _described(format_module(backbone), size, classes, cost)
    if (known := published_of_backbone(backbone)) is not None:
        found["published"] = _at(known[1], known[0])
    return found


def _described(code: str, size: InputSize, classes: int, cost: CostMetrics) -> dict[str, Any]:
    return {
        "code": code,
        "input": str(size),
        "tensor": str(size.padded()),
        "classes": classes,
        "params": cost.params,
        "macs": cost.macs,
        "memory_access": cost.memory_access,
        "parts": {name: asdict(part) for name, part in cost.parts.items()},
        "regions": dict(cost.regions),
    }


def _at(figures: Published, size: InputSize) -> dict[str, Any]:
    """Published figures with the inputs that they are about; those that are not given left out."""
    given = {name: value for name, value in asdict(figures).items() if value is not None}
    return given | {"input": str(size), "classifier_input": str(IMAGENET), "classifier_classes": CATEGORIES}


def measure_latency(
    what: str,
    size: InputSize | None,
    classes: int,
    *,
    device: str,
    threads: int | None,
    runs: int,
    seconds: float,
    warmup: int = 5,
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
    found = measure(runtime, spec.input, warmup=warmup, runs=runs, seconds=seconds, threads=threads)
    return {"code": format_detector(spec), **asdict(found), "runs": found.protocol.runs}
