"""The training loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from detsearch.arch.spec import ClassifierSpec, DetectorSpec
from detsearch.errors import DataError
from detsearch.search.trial import TrialContext, TrialInterrupted
from detsearch.training import log as logs
from detsearch.training.progress import SilentProgress, TrainingProgress
from detsearch.training.ranks import Ranks
from detsearch.training.run import Batch, Net, TrainingRun
from detsearch.training.settings import TrainingSettings

CHECKPOINT: Final = "checkpoint.pt"
LOG: Final = "log.jsonl"

T = TypeVar("T")


class TrainLoader(Protocol):
    """Batches of one epoch; their order and augmentation depend only on the epoch (`data.loader.TrainLoader`)."""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Trained(Generic[Net]):
    """`model` is the network to answer with (the averaged one, where an average is kept), in eval mode; `checkpoint`
    holds the same; `batch` images made a step; `seconds` of wall time went into training, interruptions left out."""

    model: Net
    checkpoint: Path
    epochs: int
    steps: int
    batch: int
    seconds: float


def train(
    model: Net,
    loader: TrainLoader,
    settings: TrainingSettings,
    *,
    spec: DetectorSpec | ClassifierSpec,
    classes: Sequence[str],
    seed: int,
    context: TrialContext,
    progress: TrainingProgress | None = None,
    evaluate: Callable[[Net], Mapping[str, float]] | None = None,
    until: int | None = None,
    ranks: Ranks | None = None,
) -> Trained[Net]:
    """Train a detector or a classifier, which `spec` describes, in ``context.folder`` on ``context.device``.

    The folder gets ``checkpoint.pt`` and ``log.jsonl`` (a line an epoch). If it holds the checkpoint of the same
    training already, that is gone on with, and on a CPU the result is bit for bit that of an uninterrupted run. So is
    the one in ``context.start``, a folder that is only read. `until` ends the training after that epoch, without
    changing its schedule, so that it can be gone on with; None: after all ``settings.epochs``. `loader` delivers
    ``settings.loader_batch`` images at a time. `evaluate` scores a network every ``settings.eval_epochs`` epochs, the
    last one excepted; the figures go into the log. `ranks`: the processes that train together, all of which call this,
    each with its share of the batches; the first one writes and evaluates.

    Raises TrainingError when a loss or the gradient stops being finite: the checkpoint is then the one before;
    TrialInterrupted, the state saved, once ``context.should_stop()``; CheckpointError if the folder holds another
    training; DataError if the loader is empty; ResourceError if the folder cannot be written.
    """
    if len(loader) == 0:
        raise DataError("training split", "at least one image", "none")
    run = TrainingRun(
        model,
        settings,
        spec=spec,
        classes=classes,
        seed=seed,
        device=context.device,
        batches=len(loader),
        ranks=ranks,
    )
    first = run.ranks.first
    checkpoint, log = context.folder / CHECKPOINT, context.folder / LOG
    if checkpoint.exists():
        run.restore(checkpoint)
    else:
        if context.start is not None and (context.start / CHECKPOINT).exists():
            run.restore(context.start / CHECKPOINT)
            if first:
                logs.copy(context.start / LOG, log)
        run.save(checkpoint)  # a folder that cannot be written, or a full disk, shows before time is spent
    if first:
        logs.trim(log, run.epoch)
    last = settings.epochs if until is None else min(until, settings.epochs)

    with progress or SilentProgress() as shown:
        shown.start(run.step, last * run.steps_per_epoch)
        while run.epoch < last:
            run.begin_epoch()
            loader.set_epoch(run.epoch, start_batch=run.step_in_epoch * settings.accumulate)
            steps = run.steps_per_epoch - run.step_in_epoch
            for parts in itertools.islice(_grouped(loader, settings.accumulate), steps):
                run.optimise(parts)
                shown.advance(run.step)
                if run.step % settings.log_steps == 0:
                    shown.say(logs.describe(run.record(), settings.epochs))
                if run.ranks.any(context.should_stop()):
                    run.save(checkpoint)
                    raise TrialInterrupted(f"stopped on request in epoch {run.epoch + 1} after step {run.step}")

            record = run.end_epoch()
            if (
                evaluate
                and first
                and settings.eval_epochs
                and run.epoch % settings.eval_epochs == 0
                and run.epoch < last
            ):
                record["metrics"] = dict(evaluate(run.answering))
            if first:
                logs.append(log, record)
            message = logs.describe(record, settings.epochs)
            shown.say(message)
            context.report(run.epoch, last, message)
            if run.epoch % settings.checkpoint_epochs == 0 or run.epoch == last:
                run.save(checkpoint)
    return Trained(run.answering.eval(), checkpoint, run.epoch, run.step, settings.batch, run.seconds)


def _grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group
