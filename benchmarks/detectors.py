"""How fast are our detectors beside torchvision's: the same architecture, weights and batches, interleaved in one run.

    python benchmarks/detectors.py                                            slim and ResNet-50 ones, on the CPU, small
    python benchmarks/detectors.py --device cuda --size 1333x800 --compile    published size on a GPU
    benchmarks/gpu.sh                                                         all figures that need a GPU

Inference takes one image, training four (a step of SGD with momentum). Both sides begin with a normalised batch made of
the same uint8 pixels: torchvision's own resizing is left out. Weights are random but scaled so that some boxes pass the
thresholds; how many each side found is printed, and must be nearly the same. Variants take turns, so that drift of the
clock meets all alike; a ratio is the median, over the rounds, of torchvision's time (eager, contiguous) by the
variant's: above 1 the variant is faster.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
import torchvision
from peers import NETWORKS, Peer, peer
from provenance import begun
from torch import Tensor, nn

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.nn.detector import Detector
from detsearch.nn.structures import ImageBatch, Targets
from detsearch.types import InputSize

DEFAULT: Final = (
    "retinanet",
    "faster_rcnn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
)
CLASSES: Final = 80
OBJECTS: Final = 8
"""In every training image."""
DEVIATIONS: Final = {"predictor.class_logits": 0.6, "head.class_logits": 0.45, "box_deltas": 0.2}
FCOS_DEVIATIONS: Final = {"head.class_logits": 0.65, "box_sides": 1.0}
"""Of the predictions, by the ends of their layers' names, so that some hundred of them pass the thresholds."""
LEAST_ROUNDS: Final = 5
SLACK: Final = 0.02
"""By how much the numbers of boxes may differ: scores are rounded otherwise on a GPU."""
BASE: Final = "torchvision"
OURS: Final = "ours"
"""Variants with contiguous maps; the first is what the others are compared with."""

Step = Callable[[], object]


def batch(number: int, size: InputSize, device: str) -> tuple[ImageBatch, Targets]:
    """Noise with boxes, and their masks, filled."""
    generator = torch.Generator().manual_seed(0)
    shape = size.padded()
    pixels = torch.randint(0, 256, (number, 3, shape.height, shape.width), dtype=torch.uint8, generator=generator)
    corner = torch.rand((number, OBJECTS, 2), generator=generator) * 0.7
    side = 0.1 + torch.rand((number, OBJECTS, 2), generator=generator) * 0.2
    boxes = torch.cat([corner, corner + side], dim=-1) * torch.tensor([shape.width, shape.height] * 2)
    labels = torch.randint(0, CLASSES, (number, OBJECTS), generator=generator)
    x, y = torch.arange(shape.width) + 0.5, torch.arange(shape.height)[:, None] + 0.5
    x1, y1, x2, y2 = boxes.view(-1, 4, 1, 1).unbind(1)
    masks = ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).to(torch.uint8)
    images = ImageBatch(pixels, torch.tensor([[shape.height, shape.width]] * number))
    return images.to(device), Targets(boxes, labels, torch.ones_like(labels, dtype=torch.bool), masks).to(device)


@torch.no_grad()
def enliven(detector: Detector, images: ImageBatch) -> None:
    """Give norms the statistics of the batch, and predictions the `DEVIATIONS`."""
    pixels = detector.normalise(images).pixels
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    detector.train()
    detector.backbone(pixels)
    detector.eval()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1

    deviations = FCOS_DEVIATIONS if hasattr(detector.head, "box_sides") else DEVIATIONS
    done: set[nn.Module] = set()

    def scale(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def hook(module: Any, _: Any, output: Tensor) -> Tensor | None:
            if module in done:  # levels after the first
                return None
            done.add(module)
            wanted = next(value for end, value in deviations.items() if name.endswith(end))
            bias = module.bias.view(-1, *(1,) * (output.ndim - 2)) if output.ndim > 2 else module.bias
            factor = wanted / (output - bias).std()
            module.weight.mul_(factor)
            return (output - bias) * factor + bias

        return hook

    named = [(name, part) for name, part in detector.named_modules() if name.endswith(tuple(deviations))]
    hooks = [part.register_forward_hook(scale(name)) for name, part in named]
    detector.detect(images)
    for hook in hooks:
        hook.remove()


def laid_out(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to(memory_format=torch.channels_last)


def compiled(detector: Detector) -> Detector:
    """What has no control flow over values: backbone, neck, and the dense predictions of proposals or a head."""
    model: Detector = laid_out(detector)  # type: ignore[assignment]
    parts = [model.backbone, model.neck, model.head if model.proposals is None else model.proposals]
    for part in parts:
        if isinstance(part, nn.Module):
            part.compile(dynamic=False)
    return model


def inference(model: Any, images: ImageBatch) -> Step:
    model.eval()

    def step() -> object:
        with torch.inference_mode():
            return model.answer(images, None) if isinstance(model, Peer) else model.detect(images)

    return step


def training(model: Any, images: ImageBatch, targets: Targets) -> Step:
    model.train()
    # A rate at which nothing changes: a step costs what it costs at any.
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)

    def step() -> object:
        loss = torch.stack(list(model.losses(images, targets).values())).sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return loss

    return step


class Clock:
    """Times steps on a device, at a precision."""

    def __init__(self, device: str, precision: str) -> None:
        self.device, self.precision = torch.device(device), precision

    @contextmanager
    def _casting(self) -> Iterator[None]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield

    def time(self, step: Step) -> float:
        """Seconds."""
        self._wait()
        start = time.perf_counter()
        with self._casting():
            step()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def race(steps: dict[str, Step], clock: Clock, seconds: float) -> dict[str, list[float]]:
    """Seconds of each variant, round by round; in every round another one begins."""
    for step in steps.values():  # compiles, and lets the allocator and cuDNN settle
        for _ in range(3):
            clock.time(step)
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    while len(times[names[0]]) < LEAST_ROUNDS or time.perf_counter() - start < seconds:
        turn = len(times[names[0]]) % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(clock.time(steps[name]))
    return times


def figures(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """By variant: median milliseconds, and the median and the quartiles of its ratio to `BASE`; the median of that to
    torchvision's in the same layout, where there is one."""
    found = {}
    for name, values in times.items():
        ratios = [base / value for base, value in zip(times[BASE], values, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        like = times.get(name.replace(OURS, BASE))
        found[name] = {
            "ms": statistics.median(values) * 1e3,
            "ratio": middle,
            "ratio_low": low,
            "ratio_high": high,
            "rounds": len(values),
        }
        if like is not None and name.startswith(OURS):
            found[name]["ratio_like"] = statistics.median(a / b for a, b in zip(like, values, strict=True))
    return found


def compare(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one architecture: inference and training, every variant."""
    torch.manual_seed(0)
    one, _ = batch(1, options.size, options.device)
    some, targets = batch(options.batch, options.size, options.device)
    ours = build(parse_network(NETWORKS[name]), CLASSES).to(options.device)
    enliven(ours, one)
    theirs = peer(name, ours).to(options.device).eval()
    if not name.startswith("mask"):
        targets = Targets(targets.boxes, targets.labels, targets.valid)
    boxes = int(ours.eval().detect(one).valid.sum()), len(theirs.answer(one, None)[0]["boxes"])
    if abs(boxes[0] - boxes[1]) > SLACK * boxes[1]:
        raise SystemExit(f"{name}: {boxes[0]} boxes here and {boxes[1]} there: the two do not do the same work")

    variants: dict[str, nn.Module] = {
        BASE: theirs,
        f"{BASE} channels_last": _laid_out_peer(theirs),
        OURS: ours,
        f"{OURS} channels_last": laid_out(ours),
    }
    if options.compile:
        variants[f"{OURS} compiled"] = compiled(ours)
    clock = Clock(options.device, options.precision)
    rows = []
    for task in options.tasks:
        images, steps = one if task == "inference" else some, {}
        last = ImageBatch(images.pixels.contiguous(memory_format=torch.channels_last), images.sizes)
        for variant, model in variants.items():
            given = images if variant in (BASE, OURS) else last
            steps[variant] = inference(model, given) if task == "inference" else training(model, given, targets)
        for variant, values in figures(race(steps, clock, options.seconds)).items():
            rows.append({"detector": name, "task": task, "variant": variant, **values, "boxes": boxes})
            print(f"{name:<24}{task:<11}{variant:<28}{values['ms']:>10.2f} ms  ratio {values['ratio']:>6.3f} "
                  f"({values['ratio_low']:.3f} to {values['ratio_high']:.3f}), {values['rounds']} rounds, "
                  f"boxes {boxes[0]} and {boxes[1]}", flush=True)  # fmt: skip
    return rows


def _laid_out_peer(theirs: Peer) -> Peer:
    """A copy that keeps normalising on the same device, which is not one of its own modules."""
    normalise, theirs.normalise = theirs.normalise, None
    model: Peer = laid_out(theirs)  # type: ignore[assignment]
    theirs.normalise = model.normalise = normalise
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", choices=list(NETWORKS), default=list(DEFAULT), metavar="NAME",
                        help=f"of {', '.join(NETWORKS)}")  # fmt: skip
    parser.add_argument("--tasks", nargs="+", choices=["inference", "training"], default=["inference", "training"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=InputSize.parse, default=InputSize(320, 256), help="WxH in pixels")
    parser.add_argument("--batch", type=int, default=4, help="images of a training step")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="autocast, both sides")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile, which takes minutes")
    parser.add_argument("--seconds", type=float, default=20, help="for each architecture and task")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/detectors.json"))
    options = parser.parse_args()
    record: dict[str, Any] = {
        **begun(options),
        "size": str(options.size),
        "batch": options.batch,
        "precision": options.precision,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "rows": [],
    }
    print(f"{record['device']}, {options.size}, training batch {options.batch}, {options.precision}, "
          f"{record['threads']} threads, torch {torch.__version__}, torchvision {torchvision.__version__}")  # fmt: skip
    for name in options.detectors:
        record["rows"] += compare(name, options)
        options.out.write_text(json.dumps(record, indent=1) + "\n")  # a run that is cut off keeps what it has


if __name__ == "__main__":
    main()
