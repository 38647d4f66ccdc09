"""The loop of a search of cells (FAD: Zhong et al., ECCV 2020, sec. 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from detsearch.arch.cells import CellSpec
from detsearch.data.loader import TrainLoader
from detsearch.errors import TrainingError
from detsearch.search.trial import TrialContext, TrialInterrupted
from detsearch.supernet.derive import Choice
from detsearch.supernet.run import CellSearchRun, Pair
from detsearch.training import log as logs
from detsearch.training.progress import SilentProgress, TrainingProgress

STATE: Final = "search.pt"
LOG: Final = "log.jsonl"


def search_cells(
    run: CellSearchRun,
    architecture: TrainLoader[Pair],
    weights: TrainLoader[Pair],
    context: TrialContext,
    *,
    progress: TrainingProgress | None = None,
) -> tuple[Choice, ...]:
    """Bring a search to its end, in ``context.folder``: all its iterations, or two looks in a row that see the same
    cells. Every look, in order; the last one is the result. The loaders deliver batches of disjoint halves.

    The folder gets ``search.pt``, from which the same search goes on, on a CPU bit for bit as if it had not been
    interrupted, and ``log.jsonl``, a line every `log_steps` iterations.

    Raises TrainingError when a loss or alpha stops being finite: the state is then the one last saved, from which the
    search goes on with lower learning rates;
    TrialInterrupted, the state saved, once ``context.should_stop()``; CheckpointError if the folder holds the state of
    another search; ResourceError if it cannot be written.
    """
    settings = run.settings
    state, log = context.folder / STATE, context.folder / LOG
    if state.exists():
        run.restore(state)
    else:
        run.begin()
        run.save(state)  # a folder that cannot be written, or a full disk, shows before time is spent
    logs.trim(log, run.iteration, by="iteration")
    batches = zip(_stream(architecture, run.iteration), _stream(weights, run.iteration), strict=False)
    recent: list[dict[str, float]] = []
    saved = run.iteration
    with progress or SilentProgress() as shown:
        shown.start(run.iteration, settings.iterations)
        run.resume_clock()
        while not run.ended:
            pair = next(batches)
            try:
                values = run.iterate(*pair)
            except TrainingError as error:
                raise TrainingError(f"{error} and repeat the command: it goes on after iteration {saved}") from error
            recent.append(_flat(values))
            done = run.iteration
            shown.advance(done)
            if done % settings.log_steps == 0 or done == settings.iterations:
                now = Choice.of(run.architecture, done)
                record = _record(run, recent, now)
                recent.clear()
                logs.append(log, record)
                shown.say(f"{_describe(record)}, now {_cells(now.cells)}")
            if done % settings.check == 0 or done == settings.iterations:
                choice = run.look()
                shown.say(f"iteration {done}: {_cells(choice.cells)}")
                context.report(done, settings.iterations, _cells(choice.cells))
            if context.should_stop() and done < settings.iterations:
                run.save(state)
                raise TrialInterrupted(f"stopped on request after iteration {done}")
            if done % settings.save_iterations == 0 or done % settings.check == 0 or done == settings.iterations:
                run.save(state)
                saved = done
    return tuple(run.history)


def _stream(loader: TrainLoader[Pair], begin: int) -> Iterator[Pair]:
    """Batches without an end, from number `begin` on."""
    epoch, start = divmod(begin, len(loader))
    while True:
        loader.set_epoch(epoch, start_batch=start)
        yield from loader
        epoch, start = epoch + 1, 0


def _flat(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{step}.{name}": value for step, found in values.items() for name, value in found.items()}


def _record(run: CellSearchRun, recent: Sequence[Mapping[str, float]], now: Choice) -> dict[str, Any]:
    """For the log: means over the iterations since the last line (or since the search was gone on with)."""
    means = {name: sum(values[name] for values in recent) / len(recent) for name in recent[0]}
    return {
        "iteration": run.iteration,
        "lr": run.settings.scaled_lr * run.schedule.factor(run.iteration - 1),
        "alpha_lr": run.settings.alpha_lr,
        "losses": means,
        "entropy": dict(now.entropy),
        "seconds": round(run.seconds, 3),
    }


def _describe(record: Mapping[str, Any]) -> str:
    """A record as a line for people."""
    sums = {
        step: sum(v for name, v in record["losses"].items() if name.startswith(f"{step}.") and "grad_norm" not in name)
        for step in ("architecture", "weights")
    }
    losses = ", ".join(f"{step} {value:.4g}" for step, value in sums.items())
    undecided = ", ".join(f"{group} {value:.3f}" for group, value in record["entropy"].items())
    return f"iteration {record['iteration']}, lr {record['lr']:.3g}, loss {losses}, entropy {undecided}"


def _cells(cells: Mapping[str, CellSpec]) -> str:
    return "; ".join(f"{group} {cell}" for group, cell in cells.items())
