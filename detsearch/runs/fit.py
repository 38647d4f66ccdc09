"""Train one detector as a recipe says, and score it: what a training and every trial of a search have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from detsearch.arch.code import format_network
from detsearch.arch.spec import DetectorSpec, Norm
from detsearch.build import build
from detsearch.data.dataset import Dataset, require_same_classes
from detsearch.data.loader import train_loader
from detsearch.errors import RecipeError
from detsearch.nn.backbones.weights import IMAGENET, load_pretrained
from detsearch.nn.detector import Detector
from detsearch.nn.freezing import Freezable
from detsearch.runs.device import several
from detsearch.runs.heritage import begin_with
from detsearch.runs.ranks import on_all
from detsearch.runs.score import Score, score
from detsearch.runs.settings import Run
from detsearch.runtime.eager import EagerRuntime
from detsearch.search.trial import TrialContext
from detsearch.training import log as logs
from detsearch.training.batch import Draw, fitting_batch, objects
from detsearch.training.checkpoint import is_checkpoint, load_detector, read_checkpoint, start_from
from detsearch.training.loop import CHECKPOINT, LOG, Trained, train
from detsearch.training.progress import SilentProgress, TrainingProgress
from detsearch.training.ranks import Ranks, joined
from detsearch.training.seeding import seed_all
from detsearch.training.settings import TrainingSettings
from detsearch.types import InputSize

S = TypeVar("S", bound=TrainingSettings)


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
) -> Trained[Detector]:
    """Build `spec` from `seed` and train it on `train_set`, which must have masks if the network draws any; with
    ``training.eval_epochs`` also score it on `val_set` on the way. Goes on with what it finds in ``context.folder`` or
    ``context.start``, with the batch that was found there under ``training.batch: auto``, or else begins with
    ``run.weights`` and, over these, with what fits of those in ``context.inherits``; ends after epoch `until`, if that
    is given. With ``run.devices`` a process on each of them has its share of every batch."""
    if val_set is not None:
        require_same_classes(train_set, val_set)
    devices = several(context.device, run.devices)
    task = spec, run, train_set, val_set, seed, until
    if len(devices) == 1:
        return _fit(*task, Ranks(devices), Path(), context, progress)
    where = context.folder, context.start, context.inherits
    counts = on_devices(fit_share, (*task, *where), devices, context, progress)
    checkpoint = context.folder / CHECKPOINT
    model, _ = load_detector(checkpoint)
    return Trained(model, checkpoint, **counts)


def on_devices(
    function: Callable[..., dict[str, Any]],
    args: tuple[Any, ...],
    devices: Sequence[str],
    context: TrialContext,
    progress: TrainingProgress | None,
) -> dict[str, Any]:
    """`runs.ranks.on_all` for a training, whose progress is shown."""
    with progress or SilentProgress() as shown:
        counts: dict[str, Any] = on_all(function, args, devices, context, tell=_Told(context, shown))
    return counts


class _Told:
    """Passes on what the first of several processes reports after each epoch."""

    def __init__(self, context: TrialContext, shown: TrainingProgress) -> None:
        self._context, self._shown, self._begun = context, shown, False

    def __call__(self, epoch: int, epochs: int, message: str) -> None:
        self._context.report(epoch, epochs, message)
        if epoch == 0:  # said before the first one
            return
        done = logs.read(self._context.folder / LOG)[-1].get("step")
        if isinstance(done, int):
            per_epoch = done // epoch
            if not self._begun:
                self._shown.start(done, per_epoch * epochs)  # the time until now tells little: processes began
                self._begun = True
            self._shown.advance(done)
            self._shown.say(message)


def fit_share(
    spec: DetectorSpec,
    run: Run,
    train_set: Dataset,
    val_set: Dataset | None,
    seed: int,
    until: int | None,
    folder: Path,
    start: Path | None,
    inherits: Path | None,
    ranks: Ranks,
    meeting: Path,
    context: TrialContext,
) -> dict[str, Any]:
    """What one of several processes does in `fit`: the counts of what was trained, but for the network."""
    own = replace(context, folder=folder, start=start, inherits=inherits)
    trained = _fit(spec, run, train_set, val_set, seed, until, ranks, meeting, own, None)
    return {name: getattr(trained, name) for name in ("epochs", "steps", "batch", "seconds")}


def _fit(
    spec: DetectorSpec,
    run: Run,
    train_set: Dataset,
    val_set: Dataset | None,
    seed: int,
    until: int | None,
    ranks: Ranks,
    meeting: Path,
    context: TrialContext,
    progress: TrainingProgress | None,
) -> Trained[Detector]:
    seed_all(seed)
    detector = build(spec.network, len(train_set.classes))
    _begin(detector, spec, run.weights, train_set.classes)
    begin_with(detector, context, until or run.training.epochs, first=ranks.first)
    draw = objects(detector.num_classes, masks=spec.network.has_masks)
    images, size = len(train_set), spec.input.padded()
    settings = with_batch(run.training, detector, size, draw, images=images, context=context, beside=len(ranks))
    check_batch(spec, settings, images, ranks)

    def scored(answering: Detector) -> Mapping[str, float]:
        assert val_set is not None
        return score_with(run, answering, spec.input, val_set, context.device).values()

    with joined(ranks, meeting):
        settings = settings.with_batch(ranks.least(settings.batch))
        loader = train_loader(
            train_set,
            spec.input,
            batch=settings.loader_batch,
            seed=seed,
            augmentation=run.augmentation,
            workers=settings.workers,
            cache_mb=run.data.cache_mb,
            masks=spec.network.has_masks,
            share=ranks.share,
        )
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
            ranks=ranks,
        )


def check_batch(spec: DetectorSpec, settings: TrainingSettings, images: int, ranks: Ranks) -> None:
    """RecipeError where the processes of a training on so many `images` could have no equal shares of a batch, or a
    batch norm would see a single value; nothing where the batch is still to be found."""
    if not settings.finds_batch:
        share = share_of(min(settings.loader_batch, images), ranks)
        check_norm(spec.network.norm, spec.input.padded(), share)


def share_of(together: int, ranks: Ranks) -> int:
    """How many of the images that are trained at a time one process has; RecipeError where shares cannot be equal."""
    if together % len(ranks):
        raise RecipeError("devices", f"a divisor of {together}, the images that are trained at a time", str(len(ranks)))
    return together // len(ranks)


def check_norm(norm: Norm, tensor: InputSize, images: int) -> None:
    """RecipeError where a batch norm would see a single value: the deepest map of one such image has one pixel, and one
    value has no variance."""
    if norm == "bn" and images == 1 and max(tensor.width, tensor.height) <= 32:
        where = f"norm bn at input {tensor}"
        raise RecipeError(where, "two images or more per forward pass", "one", "use gn or gn_ws")


def with_batch(
    settings: S,
    model: Freezable,
    size: InputSize,
    draw: Draw,
    *,
    images: int,
    context: TrialContext,
    beside: int = 1,
) -> S:
    """The settings with a batch that fits, if they ask for one: that of the training that goes on, or a new one, of at
    most so many `images` of `size` (the tensor's), of which each of `beside` processes has its share."""
    if not settings.finds_batch:
        return settings
    for folder in (context.folder, context.start):
        if folder is not None and (folder / CHECKPOINT).exists():
            known = read_checkpoint(folder / CHECKPOINT).meta.settings.get("batch")
            if isinstance(known, int):
                return settings.with_batch(known)
    most = min(settings.base_batch, images) // beside
    if most == 0:
        raise RecipeError("devices", f"at most {min(settings.base_batch, images)}, the images of a batch", str(beside))
    device, sharing = context.device, context.sharing
    found = fitting_batch(model, settings, size, device, most=most, draw=draw, beside=beside, sharing=sharing)
    return settings.with_batch(beside * found)


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
