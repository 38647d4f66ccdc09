"""``detsearch pretrain``: a backbone, trained as a classifier of images, whose weights a detector can begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from detsearch.arch.code import format_module, format_subject
from detsearch.arch.presets import IMAGENET
from detsearch.arch.published import published_of_backbone
from detsearch.build import build_classifier
from detsearch.cost.count import count_classifier
from detsearch.cost.latency import device_name
from detsearch.data.crop_loader import crop_eval_loader, crop_train_loader
from detsearch.data.image_folders import LabelledImages, read_split
from detsearch.errors import RecipeError
from detsearch.evaluation.classification import classify
from detsearch.files import write_json
from detsearch.nn.backbones.weights import IMAGENET as PUBLISHED
from detsearch.nn.backbones.weights import load_pretrained
from detsearch.nn.classifier import Classifier
from detsearch.nn.freezing import first_stages
from detsearch.runs.checks import require_weights
from detsearch.runs.device import resolve_device, several, threads_each
from detsearch.runs.fit import check_norm, on_devices, share_of, with_batch
from detsearch.runs.folders import METRICS, claim
from detsearch.runs.inspect import CATEGORIES
from detsearch.runs.interrupt import Stop
from detsearch.runs.pretrain_recipe import PretrainRecipe
from detsearch.runs.revision import versions
from detsearch.search.trial import TrialContext
from detsearch.training.archive import write_state
from detsearch.training.batch import labels
from detsearch.training.checkpoint import BACKBONE, is_checkpoint, load_weights, read_checkpoint
from detsearch.training.loop import CHECKPOINT, Trained, train
from detsearch.training.progress import TrainingProgress
from detsearch.training.ranks import Ranks, joined
from detsearch.training.seeding import seed_all


def pretrain(
    recipe: PretrainRecipe,
    folder: Path,
    *,
    progress: TrainingProgress | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train ``recipe.backbone`` as a classifier in `folder` and score it; what it finds is returned and stands in
    ``metrics.json``, the backbone's weights alone in ``backbone.pt``. Called again with the same recipe and folder it
    goes on where it was stopped. `tell` hears what may spoil the result, and what takes long before training begins.

    UserErrors for anything wrong with recipe, images, device or folder, before time is spent; TrialInterrupted after
    Ctrl-C, the state saved; TrainingError if the loss stops being finite.
    """
    spec, device = recipe.spec(), resolve_device(recipe.device)
    devices = several(device, recipe.devices)
    recipe.training.autocast_dtype(torch.device(device))
    train_set = read_split(Path(recipe.data.root), recipe.data.train)
    val_set = read_split(Path(recipe.data.root), recipe.data.val, train_set.classes)
    for warning in (*train_set.warnings, *val_set.warnings):
        tell(warning)
    cost = count_classifier(_begin(recipe, len(train_set.classes)), spec.input)
    if not (folder / CHECKPOINT).exists():
        for images in (train_set, val_set):
            tell(f"looking at the {len(images):,} image files of {images.split}")
            images.check()
    claim(folder, _located(recipe), _same)
    with Stop() as stop:
        context = TrialContext(folder=folder, device=device, threads=threads_each(), should_stop=stop.requested)
        trained = _fit(recipe, train_set, val_set, devices, context, progress)
    write_state(folder / BACKBONE, trained.model.get_submodule("backbone").state_dict())
    found = {
        "code": format_subject(spec),
        "backbone": format_module(spec.backbone),
        "norm": spec.norm,
        "input": str(spec.input),
        "classes": len(train_set.classes),
        **_scored(recipe, val_set, device)(trained.model),
        "params": cost.params,
        "macs": cost.macs,
        "checkpoint": str(trained.checkpoint),
        "weights": str(folder / BACKBONE),
        "epochs": trained.epochs,
        "steps": trained.steps,
        "batch": trained.batch,
        "train_seconds": round(trained.seconds, 1),
        "images": {images.split: len(images) for images in (train_set, val_set)},
        "seed": recipe.seed,
        "device": device,
        "device_name": device_name(device),
        "devices": len(devices),
        "versions": versions(),
    }
    known = published_of_backbone(spec.backbone)
    if known is not None and (spec.input, len(train_set.classes), spec.norm) == (IMAGENET, CATEGORIES, "bn"):
        found["published"] = {"source": known[1].source, "top1": known[1].top1}
    write_json(folder / METRICS, found)
    return found


def fit_share(
    recipe: PretrainRecipe,
    train_set: LabelledImages,
    val_set: LabelledImages,
    folder: Path,
    ranks: Ranks,
    meeting: Path,
    context: TrialContext,
) -> dict[str, Any]:
    """What one of several processes does: the counts of what was trained."""
    trained = _train(recipe, train_set, val_set, ranks, meeting, replace(context, folder=folder), None)
    return {name: getattr(trained, name) for name in ("epochs", "steps", "batch", "seconds")}


def _fit(
    recipe: PretrainRecipe,
    train_set: LabelledImages,
    val_set: LabelledImages,
    devices: tuple[str, ...],
    context: TrialContext,
    progress: TrainingProgress | None,
) -> Trained[Classifier]:
    if len(devices) == 1:
        return _train(recipe, train_set, val_set, Ranks(devices), Path(), context, progress)
    counts = on_devices(fit_share, (recipe, train_set, val_set, context.folder), devices, context, progress)
    checkpoint = context.folder / CHECKPOINT
    classifier = _begin(recipe, len(train_set.classes))
    load_weights(classifier, read_checkpoint(checkpoint).weights, checkpoint)
    return Trained(classifier.eval(), checkpoint, **counts)


def _train(
    recipe: PretrainRecipe,
    train_set: LabelledImages,
    val_set: LabelledImages,
    ranks: Ranks,
    meeting: Path,
    context: TrialContext,
    progress: TrainingProgress | None,
) -> Trained[Classifier]:
    spec, classes = recipe.spec(), train_set.classes
    classifier = _begin(recipe, len(classes))
    settings = with_batch(
        recipe.training,
        classifier,
        spec.input,
        labels(len(classes)),
        images=len(train_set),
        context=context,
        beside=len(ranks),
    )
    check_norm(spec.norm, spec.input, share_of(min(settings.loader_batch, len(train_set)), ranks))
    with joined(ranks, meeting):
        settings = settings.with_batch(ranks.least(settings.batch))
        loader = crop_train_loader(
            train_set,
            recipe.size,
            batch=settings.loader_batch,
            seed=recipe.seed,
            augmentation=recipe.augmentation,
            workers=settings.workers,
            share=ranks.share,
        )
        return train(
            classifier,
            loader,
            settings,
            spec=spec,
            classes=classes,
            seed=recipe.seed,
            context=context,
            progress=progress,
            evaluate=_scored(recipe, val_set, context.device),
            ranks=ranks,
        )


def _begin(recipe: PretrainRecipe, classes: int) -> Classifier:
    """The network at the beginning of its training; RecipeError, CheckpointError or ResourceError where it has no such
    stages or weights."""
    spec = recipe.spec()
    seed_all(recipe.seed)
    classifier = build_classifier(spec.backbone, classes, spec.norm, smoothing=recipe.training.smoothing)
    backbone = classifier.get_submodule("backbone")
    first_stages(backbone, recipe.training.frozen_stages)
    require_weights("training.frozen_stages", recipe.training.frozen_stages, recipe.weights)
    if recipe.weights != "none":
        if recipe.weights != PUBLISHED and is_checkpoint(Path(recipe.weights)):
            raise RecipeError("weights", "none, imagenet, or a file of weights of the backbone", "a checkpoint")
        load_pretrained(backbone, recipe.weights)
    return classifier


def _scored(
    recipe: PretrainRecipe, val_set: LabelledImages, device: str
) -> Callable[[Classifier], Mapping[str, float]]:
    batch, workers = recipe.evaluation.batch, recipe.training.workers
    answers = crop_eval_loader(val_set, recipe.size, resize=recipe.resize, batch=batch, workers=workers)
    return lambda classifier: classify(classifier, answers, device).values()


def _located(recipe: PretrainRecipe) -> PretrainRecipe:
    """The same, to be read from any working directory: files by their whole path, the backbone as its code."""
    changed: dict[str, Any] = {
        "backbone": format_module(recipe.spec().backbone),
        "data": recipe.data.model_copy(update={"root": str(Path(recipe.data.root).absolute())}),
    }
    if recipe.weights not in ("none", PUBLISHED):
        changed["weights"] = str(Path(recipe.weights).absolute())
    return recipe.model_copy(update=changed)


def _same(first: PretrainRecipe, second: PretrainRecipe) -> bool:
    return _deciding(first) == _deciding(second)


def _deciding(recipe: PretrainRecipe) -> dict[str, Any]:
    """The fields on which weights and figures depend, and the device."""
    plain = _located(recipe).model_dump(mode="json", exclude={"training", "evaluation", "devices"})
    return {**plain, "resize": recipe.resize, "training": recipe.training.deciding()}
