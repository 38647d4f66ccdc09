"""How fast are the published detectors beside each other, here and on the paper's GPU?

    python benchmarks/published.py --out docs/results/published-cpu.json
    python benchmarks/published.py --device cuda --rounds 60 --out published-gpu.json

Latency of SM-NAS's E0 to E5 and of the detectors that its paper compares with, each as a ratio to Faster R-CNN with a
ResNet-50 at 800x600, beside the same ratio of the published figures (Yao et al., AAAI 2020; V100). One image, from
uint8 pixels on the device to detections, at the nominal load of `detsearch latency`, float32 and channels last unless
--precision says otherwise; weights are random, norms have the statistics of the image. Detectors take turns, and in
every round another one begins, so that drift of the clock meets all alike; a ratio is the median of those of the
rounds. Under ten minutes on 2 CPU cores, under three on a GPU. The paper does not say what its time includes, its
detectors were trained (so fewer boxes went through suppression), and other hardware has other ratios: expect the order,
not the figures. What a run that is cut off has measured is kept.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from provenance import provenance
from torch import nn

from detsearch.arch.code import format_detector
from detsearch.arch.presets import resolve
from detsearch.arch.published import published
from detsearch.arch.spec import DetectorSpec
from detsearch.build import build
from detsearch.cost.device_lock import exclusive
from detsearch.files import write_json
from detsearch.nn.structures import ImageBatch
from detsearch.runtime.eager import PRECISIONS, EagerRuntime
from detsearch.types import InputSize

BASE: Final = "faster_rcnn_r50_fpn@800x600"
COMPARED: Final[Mapping[str, float]] = {
    BASE: 43.6,
    "retinanet_r50_fpn@800x600": 46.7,
    "faster_rcnn_r101_fpn@1333x800": 72.0,
}
"""The paper's baselines, with their milliseconds on a V100."""
DETECTORS: Final = (*COMPARED, "E0", "E1", "E2", "E3", "E4", "E5")
CLASSES: Final = 80
SEED: Final = 0
LEAST_ROUNDS: Final = 3


@dataclass(frozen=True)
class Entry:
    """A detector that is ready to answer its image."""

    name: str
    spec: DetectorSpec
    runtime: EagerRuntime
    images: ImageBatch

    def time(self) -> float:
        """Seconds of one answer, with nothing else on the device."""
        device = self.runtime.device
        with exclusive(device), self.runtime.nominal_load():
            self.runtime.synchronize()
            start = time.perf_counter()
            found = self.runtime(self.images)
            self.runtime.synchronize()
            seconds = time.perf_counter() - start
        assert torch.isfinite(found.boxes).all(), f"{self.name} answers with numbers"
        return seconds


def entry(name: str, device: str, precision: str) -> Entry:
    spec = resolve(name)
    torch.manual_seed(SEED)
    detector = build(spec.network, CLASSES)
    images = noise(spec.input.padded()).to(device)
    settle(detector.to(device), images)
    return Entry(name, spec, EagerRuntime(detector, device, precision=precision), images)


def noise(size: InputSize) -> ImageBatch:
    shape = (1, 3, size.height, size.width)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(SEED))
    return ImageBatch(pixels, torch.tensor([[size.height, size.width]]))


@torch.no_grad()
def settle(detector: Any, images: ImageBatch) -> None:
    """Give batch norms of the backbone the statistics of the image: with those that they begin with, a deep network's
    random weights lead beyond what numbers can hold."""
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    detector.train()
    detector.backbone(detector.normalise(images).pixels)
    detector.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def rows(entries: Sequence[Entry], times: Mapping[str, Sequence[float]], base: str) -> list[dict[str, Any]]:
    """A row for each detector: median and quartiles of its milliseconds and of its ratios, and what was published."""
    found = []
    theirs = published_ms(next(one for one in entries if one.name == base))
    for one in entries:
        values = times[one.name]
        ratios = [value / beside for value, beside in zip(values, times[base], strict=True)]
        own = published_ms(one)
        found.append(
            {
                "detector": one.name,
                "code": format_detector(one.spec),
                "tensor": str(one.spec.input.padded()),
                **quartiles("ms", [value * 1e3 for value in values]),
                **quartiles("ratio", ratios),
                "published_ms": own,
                "published_ratio": None if own is None or theirs is None else own / theirs,
                "rounds": len(values),
            }
        )
    return found


def published_ms(one: Entry) -> float | None:
    figures = published(one.spec)
    return COMPARED.get(one.name) if figures is None else figures.latency_ms


def quartiles(name: str, values: Sequence[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| detector | tensor | ms | ratio (quartiles) | published ms, V100 | published ratio |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in found:
        theirs = ["–", "–"]
        if row["published_ratio"] is not None:
            theirs = [f"{row['published_ms']:.1f}", f"{row['published_ratio']:.2f}"]
        ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        lines.append(f"| {row['detector']} | {row['tensor']} | {row['ms']:.1f} | {ratio} | {' | '.join(theirs)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS), metavar="TEXT", help="presets or codes")
    parser.add_argument("--base", default=BASE, help="the one that others are divided by")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="float32", help="autocast")
    parser.add_argument("--rounds", type=int, default=5, help="most answers of each detector")
    parser.add_argument("--seconds", type=float, default=600, help=f"of all, once there are {LEAST_ROUNDS} rounds")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/published.json"))
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.rounds < LEAST_ROUNDS:
        parser.error(f"--rounds: at least {LEAST_ROUNDS}")
    names = list(dict.fromkeys([options.base, *options.detectors]))
    said = {name: getattr(options, name) for name in ("device", "precision", "rounds")}
    if names != list(DETECTORS):
        said |= {"base": options.base, "detectors": " ".join(map(repr, options.detectors))}
    record: dict[str, Any] = {
        "command": " ".join(["python benchmarks/published.py", *(f"--{name} {value}" for name, value in said.items())]),
        **provenance(options.device),
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "precision": options.precision,
        "classes": CLASSES,
        "base": options.base,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    entries = [entry(name, options.device, options.precision) for name in names]
    for one in entries:  # what is done once: memory, the choice of kernels
        for _ in range(1 if options.device == "cpu" else 5):
            one.time()
    times: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for number in range(options.rounds):
        if number >= LEAST_ROUNDS and time.perf_counter() - start > options.seconds:
            break
        turn = number % len(entries)
        for one in entries[turn:] + entries[:turn]:
            times[one.name].append(one.time())
        if number + 1 >= LEAST_ROUNDS:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(options.out, {**record, "rows": rows(entries, times, options.base)})
    print(f"{record['device']}, {options.precision}, {record['threads']} threads, torch {torch.__version__}\n")
    print(table(rows(entries, times, options.base)))


if __name__ == "__main__":
    main()
