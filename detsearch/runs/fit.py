"""Train one detector as a recipe says, and score it: what a training and every trial of a search have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detsearch.arch.code import format_network
from detsearch.arch.spec import DetectorSpec
from detsearch.build import build
from detsearch.data.dataset import Dataset, require_same_classes
from detsearch.data.loader import train_loader
from detsearch.errors import RecipeError
from detsearch.nn.backbones.weights import IMAGENET, load_pretrained
from detsearch.nn.detector import Detector
from detsearch.runs.heritage import begin_with
from detsearch.runs.score import Score, score
from detsearch.runs.settings import Run
from detsearch.runtime.eager import EagerRuntime
from detsearch.search.trial import TrialContext
from detsearch.training.batch import fitting_batch
from detsearch.training.checkpoint import is_checkpoint, read_checkpoint, start_from
from detsearch.training.loop import CHECKPOINT, Trained, train
from detsearch.training.progress import TrainingProgress
from detsearch.training.seeding import seed_all
from detsearch.training.settings import TrainingSettings
from detsearch.types import InputSize


def fit(
    spec: DetectorSpec,
    run: Run,
    *,
    train_set: Dataset,
    val_set: Dataset | None,
    seed: int,
    context: TrialContext,
    progress: TrainingProgress | None = None,
    until: int | None = None,
) -> Trained:
    """Build `spec` from `seed` and train it on `train_set`, which must have masks if the network draws any; with
    ``training.eval_epochs`` also score it on `val_set` on the way. Goes on with what it finds in ``context.folder`` or
    ``context.start``, with the batch that was found there under ``training.batch: auto``, or else begins with
    ``run.weights`` and, over these, with what fits of those in ``context.inherits``; ends after epoch `until`, if that
    is given."""
    if val_set is not None:
        require_same_classes(train_set, val_set)
    seed_all(seed)
    detector = build(spec.network, len(train_set.classes))
    _begin(detector, spec, run.weights, train_set.classes)
    begin_with(detector, context, until or run.training.epochs)
    settings = _with_batch(run.training, detector, spec, len(train_set), context)
    images = min(settings.loader_batch, len(train_set))
    if spec.network.norm == "bn" and images == 1 and spec.input.padded() == InputSize(32, 32):
        # The deepest map has one pixel, and one value has no variance.
        raise RecipeError("norm bn at input 32x32", "two images or more per forward pass", "one", "use gn or gn_ws")
    loader = train_loader(
        train_set,
        spec.input,
        batch=settings.loader_batch,
        seed=seed,
        augmentation=run.augmentation,
        workers=settings.workers,
        cache_mb=run.data.cache_mb,
        masks=spec.network.has_masks,
    )

    def scored(answering: Detector) -> Mapping[str, float]:
        assert val_set is not None
        return score_with(run, answering, spec.input, val_set, context.device).values()

    return train(
        detector,
        loader,
        settings,
        spec=spec,
        classes=train_set.classes,
        seed=seed,
        context=context,
        progress=progress,
        evaluate=None if val_set is None else scored,
        until=until,
    )


def _with_batch(
    settings: TrainingSettings, detector: Detector, spec: DetectorSpec, images: int, context: TrialContext
) -> TrainingSettings:
    """The settings with a batch that fits, if they ask for one: that of the training that goes on, or a new one."""
    if not settings.finds_batch:
        return settings
    for folder in (context.folder, context.start):
        if folder is not None and (folder / CHECKPOINT).exists():
            known = read_checkpoint(folder / CHECKPOINT).meta.settings.get("batch")
            if isinstance(known, int):
                return settings.with_batch(known)
    most, masks = min(settings.base_batch, images), spec.network.has_masks
    return settings.with_batch(fitting_batch(detector, settings, spec.input, context.device, most=most, masks=masks))


def _begin(detector: Detector, spec: DetectorSpec, weights: str, classes: Sequence[str]) -> None:
    """The weights that a training starts with: a checkpoint's for the whole detector, others for its backbone."""
    if weights == "none":
        return
    if weights != IMAGENET and is_checkpoint(Path(weights)):
        start_from(detector, Path(weights), network=format_network(spec.network), classes=classes)
    else:
        load_pretrained(detector.parts()["backbone"], weights)


def score_with(run: Run, detector: Detector, size: InputSize, dataset: Dataset, device: str) -> Score:
    """Figures of a detector on a dataset, as a recipe says."""
    runtime = EagerRuntime(detector, device)
    how = run.evaluation
    return score(runtime, size, dataset, batch=how.batch, workers=run.training.workers, voc=how.voc)
