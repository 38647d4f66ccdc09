"""What a running study says, a line an event."""

from __future__ import annotations

from detsearch.cli.output import log
from detsearch.search.study import StudyEvent
from detsearch.search.trial import Trial, TrialState


def print_event(event: StudyEvent) -> None:
    """One line on standard error."""
    if event.kind == "stopping":
        log("stopping: running trials save their state; Ctrl-C again ends them at once")
        return
    trial = event.trial
    assert trial is not None, "only stopping has no trial"
    name = f"trial {trial.number}"
    if event.kind == "progress":
        log(f"{name}: {event.message or f'epoch {event.epoch}/{event.epochs}'}")
    elif trial.state is TrialState.RUNNING:
        log(f"{name} started ({trial.origin}): {trial.code}{_costs(trial)}")
    elif trial.state is TrialState.COSTED:
        log(f"{name} costed: {trial.code}{_costs(trial)}")
    elif trial.state is TrialState.PREEMPTED:
        log(f"{name} interrupted; it will be run again")
    else:
        figures = ", ".join(f"{key} {value:.3f}" for key, value in _accuracy(trial).items())
        log(f"{name} {trial.state}: {trial.reason or figures}{_costs(trial)}")


def _accuracy(trial: Trial) -> dict[str, float]:
    values = {} if trial.metrics is None else trial.metrics.values
    return {name: values[name] for name in ("ap", "ap50", "mask_ap", "mask_ap50") if name in values}


def _costs(trial: Trial) -> str:
    latency = None if trial.cost is None else trial.cost.latency
    return "" if latency is None else f" [{latency.median_ms:.1f} ms{'' if latency.steady else ', not steady'}]"
