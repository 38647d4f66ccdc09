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
import json
import platform
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
import torchvision
from peers import SLIM, peer
from provenance import provenance

from detsearch.arch.code import parse_detector
from detsearch.arch.spec import DetectorSpec
from detsearch.build import build
from detsearch.data.loader import train_loader
from detsearch.data.transforms import Augmentation
from detsearch.intervals import mean_interval
from detsearch.runs.data import load_split
from detsearch.runs.score import score
from detsearch.runtime.eager import EagerRuntime
from detsearch.search.trial import TrialContext
from detsearch.training.loop import train
from detsearch.training.seeding import seed_all
from detsearch.training.settings import TrainingSettings

DETECTORS: Final = {name: f"{network}@192x144" for name, network in SLIM.items()}
SETTINGS: Final = TrainingSettings(epochs=15, batch=8, lr=0.04, warmup_steps=80, ema_decay=0.98, weight_decay=5e-4)
AUGMENTATION: Final = Augmentation(horizontal_flip=0.5, vertical_flip=0.5)
SEEDS: Final = (0, 1, 2)


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
        detector = peer(name, detector)
    loader = train_loader(
        train_set, spec.input, batch=SETTINGS.batch, seed=seed, augmentation=AUGMENTATION, workers=0, cache_mb=256
    )
    context = TrialContext(folder=folder)
    folder.mkdir(parents=True, exist_ok=True)
    trained = train(detector, loader, SETTINGS, spec=spec, classes=train_set.classes, seed=seed, context=context)
    figures = score(EagerRuntime(trained.model), spec.input, val_set, batch=8).values()
    figures = {"ap": figures["ap"], "ap50": figures["ap50"], "seconds": trained.seconds}
    result.write_text(json.dumps(figures))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="recipes/data/bccd.yaml")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"))
    parser.add_argument("--detectors", nargs="+", choices=list(DETECTORS), default=list(DETECTORS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in options.seeds:
        for name in options.detectors:
            for code in ("detsearch", "torchvision"):
                figures = run(name, code, seed, options.data, options.runs / f"{name}-{code}-{seed}")
                rows.append({"detector": name, "code": code, "seed": seed, **figures})
                print(json.dumps(rows[-1]), flush=True)
    summary = []
    for name in options.detectors:
        aps = {
            code: [row["ap"] for row in rows if (row["detector"], row["code"]) == (name, code)]
            for code in ("detsearch", "torchvision")
        }
        means = {code: statistics.mean(values) for code, values in aps.items()}
        spreads = {code: max(values) - min(values) for code, values in aps.items()}
        pairs = zip(aps["detsearch"], aps["torchvision"], strict=True)
        apart = mean_interval([ours - theirs for ours, theirs in pairs])
        assert apart is not None
        summary.append({"detector": name, "ap": means, "spread": spreads, "difference": asdict(apart)})
        half = "" if apart.half is None else f" +- {apart.half:.3f}"
        print(
            f"{name}: AP {means['detsearch']:.3f} here, {means['torchvision']:.3f} with torchvision's code; spreads "
            f"{spreads['detsearch']:.3f} and {spreads['torchvision']:.3f}, paired difference {apart.mean:+.3f}{half}"
        )
    if options.out is not None:
        record = {
            "command": " ".join(["python", *sys.argv]),
            "detectors": {name: DETECTORS[name] for name in options.detectors},
            "settings": SETTINGS.model_dump(mode="json"),
            **provenance(),
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
