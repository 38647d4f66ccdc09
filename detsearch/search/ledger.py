"""The study on disk: one folder that says, at any moment, what is true of every trial.

    ledger.db          optuna's storage (its dashboard reads it): code, lineage, cost, lease and outcome are user_attrs
    coordinator.lock   held by the one process that runs the study
    trials/0007/       what trial 7 wrote: log, checkpoints, and trial.json once it has ended

Each fact is one transaction, written before the next step depends on it. A trial appears whole, with its code and
lineage. `outcome` is the fact that it ended; optuna's state follows and is mended from it after a kill in between.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import optuna
from optuna.trial import FrozenTrial, create_trial

from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import StudyError, UserError
from detsearch.files import make_folder, write_json
from detsearch.search.lease import FolderLock, Lease, Owner
from detsearch.search.objective import Objective, check_objectives
from detsearch.search.storage import DATABASE, create, first_difference, opened, plain, writing
from detsearch.search.trial import Proposal, Trial, TrialState, waiting
from detsearch.types import CostMetrics, Fidelity, Metrics

_OPTUNA: Final = optuna.trial.TrialState
_FINAL: Final = {
    TrialState.COMPLETE: _OPTUNA.COMPLETE,
    TrialState.COSTED: _OPTUNA.PRUNED,
    TrialState.PRUNED: _OPTUNA.PRUNED,
    TrialState.FAILED: _OPTUNA.FAIL,
}


class Codec(NamedTuple):
    """How specs are written into the ledger and read from it."""

    format: Callable[[DetectorSpec], str]
    parse: Callable[[str], DetectorSpec]


DETECTORS: Final = Codec(format_detector, parse_detector)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecord:
    """What a study's folder says."""

    folder: Path
    identity: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]


@dataclass(slots=True)
class _Entry:
    id: int  # optuna's
    trial: Trial
    lease: Lease | None
    losses: Mapping[str, int]
    cost_losses: int  # how often its process died during the computation of its cost
    settled: bool  # optuna's state says what the outcome says


def read_study(folder: Path, codec: Codec = DETECTORS) -> StudyRecord:
    """Read a study, finished or running, without writing to it; StudyError where the folder holds none."""
    with opened(folder / DATABASE, readonly=True) as (storage, study, identity):
        trials = [_entry(frozen, codec, folder).trial for frozen in storage.get_all_trials(study, deepcopy=False)]
    objectives = tuple(Objective.parse(text) for text in identity["objectives"])
    return StudyRecord(folder=folder, identity=identity, objectives=objectives, trials=tuple(trials))


class Ledger:
    """The writer of a study; one at a time for each folder, as a context manager.

    `identity` says which search this is (space, seed, digest of the recipe, ...; plain values): a folder whose
    identity or objectives differ is refused with a StudyError that names the first differing field, as is a folder
    that a live process is writing. A running trial's lease is held by this process and lasts `lease_seconds` from its
    last renewal. A trial that was lost (its process died while the coordinator lived) more than `max_losses` times in a
    row without finishing an epoch in between fails; so does one whose process died that often during its cost.
    ResourceError where the disk refuses.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        objectives: Sequence[Objective],
        *,
        codec: Codec = DETECTORS,
        clock: Callable[[], float] = time.time,
        lease_seconds: float = 60.0,
        max_losses: int = 3,
        owner: Owner | None = None,
    ) -> None:
        check_objectives(objectives)
        self.folder, self.objectives = folder, tuple(objectives)
        self._codec, self._clock = codec, clock
        self._lease_seconds, self._max_losses = lease_seconds, max_losses
        self._owner = owner or Owner.current()
        given = plain({**identity, "objectives": [str(objective) for objective in objectives]})
        make_folder(folder)
        with ExitStack() as stack:
            with writing(folder):
                (folder / "trials").mkdir(exist_ok=True)
                stack.callback(FolderLock(folder / "coordinator.lock", self._owner).release)
            if not (folder / DATABASE).exists():
                create(folder / DATABASE, given, objectives)
            self._storage, self._study, stored = stack.enter_context(opened(folder / DATABASE, readonly=False))
            if (difference := first_difference(stored, given)) is not None:
                field, was, now = difference
                raise StudyError(
                    f"{folder}: {field}", json.dumps(was), json.dumps(now), "use another folder for another search"
                )
            frozen = self._storage.get_all_trials(self._study, deepcopy=False)
            self._entries = [_entry(one, codec, folder) for one in frozen]
            self._resources = stack.pop_all()
        for entry in self._entries:
            if not entry.settled:
                self._settle(entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._resources.close()

    def trials(self) -> list[Trial]:
        """All trials in the order of their numbers."""
        return [entry.trial for entry in self._entries]

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def add(self, proposal: Proposal, *, fidelity: Fidelity, seed: int) -> Trial:
        """A new waiting trial, with the next number."""
        code = self._codec.format(proposal.spec)
        attributes = {
            "code": code,
            "origin": proposal.origin,
            "parents": list(proposal.parents),
            "continues": proposal.continues,
            "inherits": proposal.inherits,
            "epochs": fidelity.epochs,
            "seed": seed,
        }
        with writing(self.folder):
            template = create_trial(state=_OPTUNA.WAITING, user_attrs=attributes)
            id = self._storage.create_new_trial(self._study, template)
            number = self._storage.get_trial_number_from_id(id)
        assert number == len(self._entries), "one coordinator writes this folder"
        trial = waiting(proposal, number=number, code=code, fidelity=fidelity, seed=seed)
        self._entries.append(_Entry(id, trial, None, {}, 0, True))
        return trial

    def lose_cost(self, number: int) -> Trial:
        """The process that computed a waiting trial's cost has died; fails the trial where that was so too often."""
        entry = self._entries[number]
        entry.cost_losses += 1
        if entry.cost_losses > self._max_losses:
            reason = f"cost: what computed it ended {entry.cost_losses} times in a row before it was done"
            return self.finish(number, TrialState.FAILED, reason=reason)
        return self._update(number, "cost_losses", entry.cost_losses)

    def record_cost(self, number: int, cost: CostMetrics) -> Trial:
        return self._update(number, "cost", cost.to_json(), cost=cost)

    def start(self, number: int) -> Trial:
        """Take the lease of a waiting or preempted trial."""
        entry = self._entries[number]
        before = entry.lease
        self._write_lease(entry, (before.attempt if before else 0) + 1, before.epoch if before else 0)
        with writing(self.folder):
            taken = self._storage.set_trial_state_values(entry.id, _OPTUNA.RUNNING)
        assert taken, "one coordinator writes this folder"
        entry.trial = replace(entry.trial, state=TrialState.RUNNING, started=datetime.now().astimezone(), finished=None)
        return entry.trial

    def progress(self, number: int, epoch: int) -> None:
        """A running trial has finished `epoch` epochs; renews its lease."""
        entry = self._entries[number]
        assert entry.lease is not None, "it is running"
        self._write_lease(entry, entry.lease.attempt, epoch)

    def renew(self) -> None:
        """Renew the leases of all running trials of this process that have used up a third of their time."""
        for entry in self._running(own=True):
            lease = entry.lease
            assert lease is not None, "it is running"
            if lease.expires - self._clock() < self._lease_seconds * 2 / 3:
                self._write_lease(entry, lease.attempt, lease.epoch)

    def finish(
        self, number: int, state: TrialState, *, metrics: Metrics | None = None, reason: str | None = None
    ) -> Trial:
        """A trial has ended for good: complete with metrics, costed, or pruned or failed for a reason."""
        assert state.final
        outcome = {
            "state": str(state),
            "reason": reason,
            "metrics": None if metrics is None else metrics.to_json(),
        }
        self._update(number, "outcome", outcome, state=state, metrics=metrics, reason=reason)
        return self._settle(self._entries[number])

    def preempt(self, number: int, *, lost: bool) -> Trial:
        """A running trial was interrupted and is to be run again; or fails, if it was `lost`, which means that its own
        process died, too often."""
        entry = self._entries[number]
        if lost:
            epoch = entry.lease.epoch if entry.lease else 0
            times = 1 if epoch > entry.losses.get("epoch", 0) else entry.losses.get("times", 0) + 1
            if times > self._max_losses:
                reason = f"lost {times} times in a row without finishing an epoch: its process ended"
                return self.finish(number, TrialState.FAILED, reason=reason)
            entry.losses = {"times": times, "epoch": epoch}
            self._update(number, "losses", entry.losses)
        with writing(self.folder):
            self._storage.set_trial_state_values(entry.id, _OPTUNA.WAITING)
        entry.trial = replace(entry.trial, state=TrialState.PREEMPTED)
        return entry.trial

    def reclaim(self) -> list[Trial]:
        """Take over the running trials of other processes whose lease has expired or whose process is known to be
        dead; a live lease is left alone. Returns the trials that are preempted by it, or have ended meanwhile. None
        counts as lost: whatever ended a coordinator, such as a machine's shutdown, says nothing of its trials."""
        changed = []
        for entry in self._running(own=False):
            with writing(self.folder):
                frozen = self._storage.get_trial(entry.id)
            fresh = _entry(frozen, self._codec, self.folder)
            self._entries[fresh.trial.number] = fresh
            if fresh.trial.state is not TrialState.RUNNING:
                changed.append(fresh.trial)
            elif fresh.lease is None or not fresh.lease.live(self._clock()):
                changed.append(self.preempt(fresh.trial.number, lost=False))
        return changed

    def foreign(self) -> list[Trial]:
        """Running trials whose lease another process holds."""
        return [entry.trial for entry in self._running(own=False)]

    def _running(self, *, own: bool) -> list[_Entry]:
        running = [entry for entry in self._entries if entry.trial.state is TrialState.RUNNING]
        return [e for e in running if (e.lease is not None and e.lease.owner == self._owner) == own]

    def _write_lease(self, entry: _Entry, attempt: int, epoch: int) -> None:
        entry.lease = Lease(self._owner, self._clock() + self._lease_seconds, attempt, epoch)
        self._update(entry.trial.number, "lease", entry.lease.to_json(), attempts=attempt)

    def _update(self, number: int, key: str, value: object, **changes: Any) -> Trial:
        """Write one fact, then believe it."""
        entry = self._entries[number]
        with writing(self.folder):
            self._storage.set_trial_user_attr(entry.id, key, value)
        entry.trial = replace(entry.trial, **changes)
        return entry.trial

    def _settle(self, entry: _Entry) -> Trial:
        """Let optuna's state, and the trial's own folder, follow the outcome."""
        trial = entry.trial
        values = [trial.values()[o.name] for o in self.objectives] if trial.state is TrialState.COMPLETE else None
        with writing(self.folder):
            self._storage.set_trial_state_values(entry.id, _FINAL[trial.state], values)
            entry.settled = True
            entry.trial = trial = replace(trial, finished=datetime.now().astimezone())
            folder = self.trial_folder(trial.number)
            if folder.is_dir():
                write_json(folder / "trial.json", trial.to_json())
        return trial


def _entry(frozen: FrozenTrial, codec: Codec, folder: Path) -> _Entry:
    """What a row of the database says."""
    attributes = frozen.user_attrs
    try:
        lease = Lease.from_json(attributes["lease"]) if "lease" in attributes else None
        outcome = attributes.get("outcome")
        cost = attributes.get("cost")
        reason = None
        if outcome is not None:
            state, reason = TrialState(outcome["state"]), outcome["reason"]
        elif frozen.state is _OPTUNA.RUNNING:
            state = TrialState.RUNNING
        elif frozen.state is _OPTUNA.WAITING:
            state = TrialState.WAITING if lease is None else TrialState.PREEMPTED
        else:
            state, reason = TrialState.FAILED, "ended by another program"
        metrics = outcome and outcome["metrics"]
        trial = Trial(
            number=frozen.number,
            code=attributes["code"],
            spec=codec.parse(attributes["code"]),
            state=state,
            fidelity=Fidelity(attributes["epochs"]),
            seed=attributes["seed"],
            origin=attributes["origin"],
            parents=tuple(attributes["parents"]),
            continues=attributes.get("continues"),
            inherits=attributes.get("inherits"),
            cost=None if cost is None else CostMetrics.from_json(cost),
            metrics=None if metrics is None else Metrics.from_json(metrics),
            reason=reason,
            started=frozen.datetime_start and frozen.datetime_start.astimezone(),
            finished=frozen.datetime_complete and frozen.datetime_complete.astimezone(),
            attempts=0 if lease is None else lease.attempt,
        )
    except UserError as error:  # only the code is parsed
        raise StudyError(
            f"{folder}: trial {frozen.number}",
            "an architecture that this installation knows",
            f"{attributes['code']} ({error})",
            "install the packages of modules that the study was run with",
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{folder}: trial {frozen.number}", "a trial of detsearch", repr(error)) from error
    settled = outcome is None or frozen.state.is_finished()
    losses, cost_losses = attributes.get("losses", {}), attributes.get("cost_losses", 0)
    return _Entry(frozen._trial_id, trial, lease, losses, cost_losses, settled)
