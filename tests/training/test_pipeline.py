"""Training with the real detector, loader and evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from detsearch.arch.code import parse_detector
from detsearch.build import build
from detsearch.data.datafile import load_datafile
from detsearch.data.dataset import Dataset
from detsearch.data.loader import eval_loader, train_loader
from detsearch.data.transforms import Augmentation
from detsearch.evaluation.coco import coco_ap
from detsearch.evaluation.predict import predict
from detsearch.evaluation.voc import voc_ap
from detsearch.runtime.eager import EagerRuntime
from detsearch.search.trial import TrialContext, TrialInterrupted
from detsearch.training.checkpoint import load_detector
from detsearch.training.loop import Trained, train
from detsearch.training.seeding import seed_all
from detsearch.training.settings import TrainingSettings
from tests.training.toys import same, stop_after, weights


def _train(
    folder: Path, code: str, data: Dataset, settings: TrainingSettings, augmentation: Augmentation, **context: object
) -> Trained:
    spec = parse_detector(code)
    seed_all(0)
    detector = build(spec.network, len(data.classes))
    loader = train_loader(
        data, spec.input, batch=settings.loader_batch, seed=0, augmentation=augmentation, workers=0, cache_mb=100
    )
    where = TrialContext(folder=folder, **context)  # type: ignore[arg-type]
    return train(detector, loader, settings, spec=spec, classes=data.classes, seed=0, context=where)


def test_a_real_training_is_resumed_exactly_and_loads(tmp_path: Path) -> None:
    code = "basicblock_8_1-1-21-1(stem=7x7)/fpn(levels=4-5,width=16)/retinanet(depth=1)@64x64"
    description = "format: synthetic\nwidth: 96\nheight: 64\nsplits:\n  train: {images: 9, seed: 1}\n"
    (tmp_path / "data.yaml").write_text(description)
    data = load_datafile(tmp_path / "data.yaml").split("train")
    settings = TrainingSettings(epochs=2, batch=4, accumulate=2, lr=0.02, ema_decay=0.9, warmup_steps=1)
    augmentation = Augmentation(scale=(0.8, 1.25), brightness=0.2)
    plain = _train(tmp_path / "plain", code, data, settings, augmentation)
    for steps in (1, 2):
        with pytest.raises(TrialInterrupted):
            _train(tmp_path / "resumed", code, data, settings, augmentation, should_stop=stop_after(steps))
    resumed = _train(tmp_path / "resumed", code, data, settings, augmentation)
    assert plain.steps == resumed.steps == 4
    assert same(weights(plain.model), weights(resumed.model))
    loaded, meta = load_detector(resumed.checkpoint)
    assert same(weights(loaded), weights(plain.model))
    assert (meta.classes, meta.input, meta.step) == (data.classes, "64x64", 4)


@pytest.mark.slow
def test_overfits_16_real_images(tiny_coco: Path, tmp_path: Path) -> None:
    """197 objects of 37 classes, down to a few pixels. 160 steps of 8 images; two minutes on one core."""
    (tmp_path / "data.yaml").write_text(
        f"format: coco\nroot: {tiny_coco}\nsplits:\n  train:\n    images: train2017\n"
        "    annotations: annotations/instances_train2017.json\n"
    )
    data = load_datafile(tmp_path / "data.yaml").split("train").subset(range(16))
    code = "basicblock_16_1-21-21-21/fpn(levels=3-4-5-6,width=48)/retinanet(depth=1,anchor_scale=2.0)/gn@256x256"
    settings = TrainingSettings(
        epochs=80, batch=8, base_batch=8, lr=0.1, final_lr=0.05, weight_decay=0, clip_norm=5, checkpoint_epochs=80
    )
    trained = _train(tmp_path / "run", code, data, settings, Augmentation.none())
    loader = eval_loader(data, parse_detector(code).input, batch=8, workers=0)
    found = predict(EagerRuntime(trained.model, channels_last=True), loader)
    assert coco_ap(data, found).values()["ap50"] >= 0.8
    assert voc_ap(data, found).values()["voc_ap50"] >= 0.8
