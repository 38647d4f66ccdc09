"""Do detectors learn here as they do with torchvision's code? The same slim detectors, from the same start, by the same
recipe on the same batches; only the detector's own code differs: pyramid, heads, targets, losses, suppression.

    python benchmarks/learning.py --out docs/results/learning.json

Half an hour on one CPU core: a one-stage (RetinaNet) and a two-stage detector (Faster R-CNN) from scratch on the train
split of BCCD, three seeds, scored on val. Seeds change the start, the order of images and the samples; torchvision
draws its samples otherwise than we do, so that the two-stage runs of one seed differ as two seeds of samples would.
Expected: no difference between the codes beyond the spread between seeds. Finished runs are kept under --runs, and the
command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from detsearch.arch.code import parse_detector
from detsearch.arch.spec import DetectorSpec
from detsearch.build import build
from detsearch.cost.latency import device_name
from detsearch.data.loader import train_loader
from detsearch.data.transforms import Augmentation
from detsearch.nn.backbones.coded import CodedResNet
from detsearch.nn.detector import Detector
from detsearch.nn.structures import Detections, ImageBatch, Targets
from detsearch.nn.torchvision_weights import to_torchvision
from detsearch.runs.data import load_split
from detsearch.runs.score import score
from detsearch.runtime.eager import EagerRuntime
from detsearch.search.trial import TrialContext
from detsearch.training.loop import train
from detsearch.training.seeding import seed_all
from detsearch.training.settings import TrainingSettings

BODY: Final = "basicblock_16_1-2-2-2(stem=7x7)"
WIDTH: Final = 32
DETECTORS: Final = {
    "retinanet": f"{BODY}/fpn(width={WIDTH},norm=none)/retinanet(anchor_scale=2)/gn@192x144",
    "faster_rcnn": f"{BODY}/fpn(levels=2-3-4-5-6,width={WIDTH},extra_from=pool,norm=none)"
    "/rpn(anchor_scale=3,norm=none)/2fc(width=128)/gn@192x144",
}
SETTINGS: Final = TrainingSettings(epochs=15, batch=8, lr=0.04, warmup_steps=80, ema_decay=0.98, weight_decay=5e-4)
AUGMENTATION: Final = Augmentation(horizontal_flip=0.5, vertical_flip=0.5)
SEEDS: Final = (0, 1, 2)
RATIOS: Final = ((0.5, 1.0, 2.0),) * 5


class Body(nn.Module):
    """Our backbone below torchvision's pyramid, with the names of torchvision's backbones."""

    def __init__(self, coded: CodedResNet, finest: int, extra: nn.Module) -> None:
        super().__init__()
        stages = {name: module for name, module in coded.named_children() if name != "stem"}
        self.body = nn.ModuleDict({**dict(coded.stem.named_children()), **stages})
        self.fpn = FeaturePyramidNetwork(list(coded.out.channels[finest - 2 :]), WIDTH, extra)  # type: ignore[arg-type]
        self.finest, self.out_channels = finest, WIDTH

    def forward(self, pixels: Tensor) -> Any:
        maps = []
        for name, module in self.body.items():
            pixels = module(pixels)
            if name.startswith("layer"):
                maps.append(pixels)
        return self.fpn(OrderedDict((str(i), x) for i, x in enumerate(maps[self.finest - 2 :])))


class Theirs(nn.Module):
    """A detector of torchvision behind our `Detector`'s methods, with the batch as we made it."""

    def __init__(self, model: nn.Module, ours: Detector, first_label: int) -> None:
        super().__init__()
        self.model, self.first_label, self.num_classes = model, first_label, ours.num_classes
        self.normalise = ours.normalise
        model.load_state_dict(to_torchvision(ours.state_dict()))

    def losses(self, images: ImageBatch, targets: Targets) -> dict[str, Tensor]:
        rows = zip(targets.boxes, targets.labels, targets.valid, strict=True)
        lists = [{"boxes": b[valid], "labels": c[valid] + self.first_label} for b, c, valid in rows]
        return self._answer(images, lists)  # type: ignore[no-any-return]

    def detect(self, images: ImageBatch) -> Detections:
        found = self._answer(images, None)
        most = max(len(image["boxes"]) for image in found)

        def padded(name: str) -> Tensor:
            first = found[0][name]
            out = first.new_zeros((len(found), most, *first.shape[1:]))
            for row, image in zip(out, found, strict=True):
                row[: len(image[name])] = image[name]
            return out

        valid = torch.arange(most) < torch.tensor([[len(image["boxes"])] for image in found])
        return Detections(padded("boxes"), padded("scores"), padded("labels") - self.first_label * valid.long(), valid)

    def _answer(self, images: ImageBatch, targets: Any) -> Any:
        images = self.normalise(images)
        self.model.transform = Handed(images)
        return self.model(list(images.pixels), targets)


class Handed(nn.Module):
    """In place of torchvision's resizing: hands on the batch that we made."""

    def __init__(self, images: ImageBatch) -> None:
        super().__init__()
        self.images = images

    def forward(self, _: Any, targets: Any) -> Any:
        return ImageList(self.images.pixels, [tuple(size) for size in self.images.sizes.tolist()]), targets

    def postprocess(self, result: Any, *_: Any) -> Any:
        return result


def retinanet(ours: Detector) -> Theirs:
    sizes = tuple(tuple(int(2 * 2**level * 2 ** (k / 3)) for k in range(3)) for level in range(3, 8))
    anchors = AnchorGenerator(sizes, RATIOS)
    body = Body(ours_backbone(ours), 3, LastLevelP6P7(WIDTH, WIDTH))
    head = RetinaNetHead(WIDTH, 9, ours.num_classes, norm_layer=partial(nn.GroupNorm, 32))
    return Theirs(RetinaNet(body, ours.num_classes, anchor_generator=anchors, head=head), ours, 0)


def faster_rcnn(ours: Detector) -> Theirs:
    anchors = AnchorGenerator(tuple((3 * 2**level,) for level in range(2, 7)), RATIOS)
    model = FasterRCNN(
        Body(ours_backbone(ours), 2, LastLevelMaxPool()),
        rpn_anchor_generator=anchors,
        box_head=TwoMLPHead(WIDTH * 49, 128),
        box_predictor=FastRCNNPredictor(128, ours.num_classes + 1),
    )
    return Theirs(model, ours, 1)


def ours_backbone(ours: Detector) -> CodedResNet:
    """A backbone of the same kind; its weights come with the state."""
    assert isinstance(ours.backbone, CodedResNet)
    return copy.deepcopy(ours.backbone)


THEIRS: Final = {"retinanet": retinanet, "faster_rcnn": faster_rcnn}


def run(name: str, code: str, seed: int, data: str, folder: Path) -> dict[str, float]:
    """Train and score one detector; kept in `folder`."""
    result = folder / "result.json"
    if result.exists():
        found: dict[str, float] = json.loads(result.read_text())
        return found
    spec: DetectorSpec = parse_detector(DETECTORS[name])
    train_set, val_set = load_split(data, "train"), load_split(data, "val")
    seed_all(seed)
    detector: Any = build(spec.network, len(train_set.classes))
    if code == "torchvision":
        detector = THEIRS[name](detector)
    loader = train_loader(
        train_set, spec.input, batch=SETTINGS.batch, seed=seed, augmentation=AUGMENTATION, workers=0, cache_mb=256
    )
    context = TrialContext(folder=folder)
    folder.mkdir(parents=True, exist_ok=True)
    trained = train(detector, loader, SETTINGS, spec=spec, classes=train_set.classes, seed=seed, context=context)
    figures = score(EagerRuntime(trained.detector), spec.input, val_set, batch=8).values()
    figures = {"ap": figures["ap"], "ap50": figures["ap50"], "seconds": trained.seconds}
    result.write_text(json.dumps(figures))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="recipes/data/bccd.yaml")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in SEEDS:
        for name in DETECTORS:
            for code in ("detsearch", "torchvision"):
                figures = run(name, code, seed, options.data, options.runs / f"{name}-{code}-{seed}")
                rows.append({"detector": name, "code": code, "seed": seed, **figures})
                print(json.dumps(rows[-1]), flush=True)
    summary = []
    for name in DETECTORS:
        aps = {
            code: [row["ap"] for row in rows if (row["detector"], row["code"]) == (name, code)]
            for code in ("detsearch", "torchvision")
        }
        means = {code: statistics.mean(values) for code, values in aps.items()}
        spread = max(max(values) - min(values) for values in aps.values())
        apart = means["detsearch"] - means["torchvision"]
        summary.append({"detector": name, "ap": means, "difference": apart, "spread_over_seeds": spread})
        print(f"{name}: AP {means['detsearch']:.3f} here, {means['torchvision']:.3f} with torchvision's code; "
              f"difference {apart:+.3f}, spread over seeds {spread:.3f}")  # fmt: skip
    if options.out is not None:
        record = {
            "command": f"python benchmarks/learning.py --out {options.out}",
            "detectors": DETECTORS,
            "settings": SETTINGS.model_dump(mode="json"),
            "device": device_name("cpu"),
            "threads": 1,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
            "rows": rows,
            "summary": summary,
        }
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
