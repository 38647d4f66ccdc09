"""A table in closed form, shaped like real ones: 144 detectors, noise between seeds, early figures that mislead."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from detsearch.arch.code import format_detector, format_module
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spec import DetectorSpec
from detsearch.search.objective import Objective
from detsearch.search.table import Row, Table, Training
from detsearch.types import CostMetrics, Latency, LatencyProtocol

EPOCHS: Final = (1, 2, 4, 6, 8, 12)
OBJECTIVES: Final = (Objective("ap", True), Objective("latency_ms", False))

CHOICES: Final[dict[str, list[Any]]] = {
    "backbone": [
        "basicblock_8_1-21-21-21",
        "basicblock_16_1-21-21-21",
        "basicblock_16_11-211-211-21",
        "bottleneck_8_1-21-21-21",
    ],
    "neck": ["fpn(levels=2-3-4-5,width=32)", "fpn(levels=3-4-5,width=32)", "fpn(levels=3-4-5,width=64)"],
    "proposals": ["none", "rpn(anchor_scale=4,keep=100)"],
    "head": ["retinanet(depth=1,anchor_scale=3)", "fcos(depth=1)", "2fc(width=128)", "cascade(stages=2,width=128)"],
    "norm": ["gn_ws"],
    "input": ["96x72", "128x96", "192x144"],
}


def generated(seed: int = 0, *, noise: float = 0.012, seeds: int = 2, choices: dict[str, list[Any]] = CHOICES) -> Table:
    """A table whose effects (of each choice, and of each pair of choices) are drawn from `seed`.

    Larger inputs and dearer parts are better in tendency and slower to learn, so that early ranks mislead.
    """
    rng = np.random.default_rng(seed)
    space = read_space(choices)
    parts = {name: list(dict.fromkeys(_parts(spec)[name] for spec in space.all())) for name in _NAMES}
    main = {
        name: rng.normal(0, 0.5, len(values)) + 0.5 * np.linspace(-1, 1, len(values)) for name, values in parts.items()
    }
    price = {
        name: np.exp(rng.normal(0, 0.15, len(values)) + 0.4 * np.linspace(-1, 1, len(values)))
        for name, values in parts.items()
    }
    pairs = {
        (a, b): rng.normal(0, 0.2, (len(parts[a]), len(parts[b])))
        for i, a in enumerate(_NAMES) for b in _NAMES[i + 1 :]
    }  # fmt: skip
    rows = []
    for spec in space.all():
        at = {name: parts[name].index(value) for name, value in _parts(spec).items()}
        quality = sum(main[name][at[name]] for name in _NAMES) + rng.normal(0, 0.15)
        quality += sum(table[at[a], at[b]] for (a, b), table in pairs.items())
        area = spec.input.width * spec.input.height / (128 * 96)
        ms = float(2 + 6 * area**0.9 * price["backbone"][at["backbone"]] * price["neck"][at["neck"]])
        ms += float(3 * price["head"][at["head"]]) * area**0.3
        quality += 0.45 * math.log(area)
        top = 0.55 / (1 + math.exp(-0.9 * quality))
        pace = 3 * math.exp(rng.normal(0, 0.3) + 0.5 * main["head"][at["head"]] + 0.3 * math.log(area))
        rows.append(
            Row(
                code=format_detector(spec),
                spec=spec,
                cost=_cost(spec, ms * math.exp(rng.normal(0, 0.02))),
                trainings={s: _training(top, pace, ms, noise, rng) for s in range(seeds)},
            )
        )
    return Table(rows=tuple(rows), choices=choices, provenance={"generated": seed})


_NAMES: Final = ("backbone", "neck", "head", "input")


def _parts(spec: DetectorSpec) -> dict[str, str]:
    net = spec.network
    assert net.neck is not None
    return {
        "backbone": format_module(net.backbone),
        "neck": format_module(net.neck),
        "head": format_module(net.head),
        "input": str(spec.input),
    }


def _training(top: float, pace: float, ms: float, noise: float, rng: np.random.Generator) -> Training:
    luck = rng.normal(0, noise)
    figures = {}
    for epochs in EPOCHS:
        learnt = 1 - math.exp(-((epochs / pace) ** 1.3))
        ap = max(0.0, top * learnt + luck * learnt + rng.normal(0, noise / 2) * math.sqrt(learnt))
        figures[epochs] = {
            "ap": round(ap, 5),
            "ap50": round(min(1.0, 1.7 * ap), 5),
            "train_seconds": round(epochs * (5 + ms), 3),
        }
    return Training(figures)


def _cost(spec: DetectorSpec, ms: float) -> CostMetrics:
    protocol = LatencyProtocol(
        device="cpu", device_name="closed form", runtime="eager", precision="float32", threads=1, batch=1,
        input=str(spec.input.padded()), warmup=1, runs=9, includes="all", excludes="nothing",
    )  # fmt: skip
    latency = Latency(median_ms=ms, iqr_ms=0.02 * ms, steady=True, protocol=protocol)
    return CostMetrics(params=int(1e5 * ms), macs=int(1e7 * ms), memory_access=int(1e6 * ms), latency=latency)
