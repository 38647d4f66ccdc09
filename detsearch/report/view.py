"""What a report is told about a study beside its trials, and what every rendering derives from the trials alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import format_module
from detsearch.arch.modules.backbones import CodedResNetSpec, TimmSpec
from detsearch.arch.spec import DetectorSpec, ModuleSpec
from detsearch.search.analysis import Analysis
from detsearch.search.inheritance import heritage_of, inherited_epochs
from detsearch.search.lift import Lift
from detsearch.search.objective import Limit, Objective, check_objectives
from detsearch.search.pareto import front
from detsearch.search.trial import Trial, TrialState
from detsearch.types import Latency, LatencyProtocol

UNSTEADY: Final = "†"
"""Marks a latency whose clock was not steady."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStage:
    """The search of structures from which a search inside of some of them began: its `trials` that can be compared,
    the numbers of those that were `chosen`, and how they were trained."""

    folder: str
    trials: tuple[Trial, ...]
    chosen: frozenset[int]
    training: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A detector of the front and a known one, by their `names`; `commands`, label -> line, that draw what both find in
    images, and `pictures` of the `split`, each with its name: boxes of a score from `threshold` on."""

    names: tuple[str, str]
    threshold: float
    commands: Mapping[str, str]
    split: str
    pictures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyView:
    """A study as its report shows it. All text is untrusted and escaped where it is rendered.

    `folder` is the path as shown, `space_size` the number of candidates of the space, `device` what trained them,
    `protocol` free text on how latency is taken beside what the trials' own protocols say, `recipe` YAML, `data` and
    `versions` label -> value, `commands` label -> command line, `train_commands` trial number -> command that trains
    it, `test` trial number -> figures on the test split by name, `known` trial number -> name of the known detector
    that it is, `chosen` the trials inside of which another search went on, `lifts` structure -> how far a search inside
    of it came, `parts` structure -> numbers of its trials, `first` where it began, `training` how detectors were
    trained, `beside` what one of the front finds beside a known one, `analysis` what goes with what, None where nothing
    is complete. RecipeError where the objectives are not a valid set.
    """

    name: str
    folder: str
    objectives: tuple[Objective, ...]
    seed: int
    limits: tuple[Limit, ...] = ()
    space_size: int | None = None
    created: datetime | None = None
    finished: datetime | None = None
    device: str = ""
    protocol: str = ""
    recipe: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    train_commands: Mapping[int, str] = field(default_factory=dict)
    test: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    known: Mapping[int, str] = field(default_factory=dict)
    chosen: frozenset[int] = frozenset()
    lifts: Mapping[str, Lift | str] = field(default_factory=dict)
    parts: Mapping[str, frozenset[int]] = field(default_factory=dict)
    first: FirstStage | None = None
    training: str = ""
    beside: Beside | None = None
    analysis: Analysis | None = None

    def __post_init__(self) -> None:
        check_objectives(self.objectives)


def backbone_family(spec: DetectorSpec) -> str:
    """What kind of backbone a detector has: the block of a coded one, a timm model's architecture, else its token."""
    backbone = spec.network.backbone
    if isinstance(backbone, CodedResNetSpec):
        return backbone.code.block
    if isinstance(backbone, TimmSpec):
        return backbone.model.partition(".")[0].partition("_")[0]
    return catalogue().of(backbone).token


def backbone_names(specs: Iterable[DetectorSpec], most: int) -> dict[ModuleSpec, str]:
    """What to call each backbone: by its text, or, where they are more than `most`, by its family."""
    families = {spec.network.backbone: backbone_family(spec) for spec in specs}
    return families if len(families) > most else {backbone: format_module(backbone) for backbone in families}


def lineage(trial: Trial) -> str:
    """Where a candidate comes from, ``mutation of 3, 7``, and the weights that it began with."""
    origin = f"{trial.origin} of {', '.join(map(str, trial.parents))}" if trial.parents else trial.origin
    if trial.inherits is None:
        return origin
    heritage = heritage_of(trial)
    return f"{origin}; inherited from trial {trial.inherits}" + ("" if heritage is None else f", {heritage}")


def began_trained(trial: Trial) -> bool:
    """Did a complete trial begin with weights that were trained before?"""
    return inherited_epochs(trial) > 0


def latency_of(trial: Trial) -> Latency | None:
    return None if trial.cost is None else trial.cost.latency


def in_state(trials: Sequence[Trial], *states: TrialState) -> list[Trial]:
    return [trial for trial in trials if trial.state in states]


def untrained(trials: Sequence[Trial]) -> list[Trial]:
    """Those whose detector was costed, and never proposed for training."""
    proposed = {trial.spec for trial in trials if trial.state is not TrialState.COSTED}
    return [trial for trial in in_state(trials, TrialState.COSTED) if trial.spec not in proposed]


def unfinished(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if not trial.state.final]


def count(number: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def state_counts(trials: Sequence[Trial]) -> str:
    """``17 complete, 5 pruned``; states that no trial has are left out."""
    counts = Counter(trial.state for trial in trials)
    return ", ".join(f"{counts[state]} {state}" for state in TrialState if counts[state]) or "none"


def protocols(trials: Sequence[Trial]) -> list[str]:
    """How the trials' latencies were measured, one line for each distinct way; the input size is the trial's own.

    More than one line means that latencies of this study were not all measured alike.
    """
    ways: dict[str, list[LatencyProtocol]] = {}
    for trial in trials:
        if (latency := latency_of(trial)) is not None:
            known = latency.protocol
            way = (
                f"{known.device_name} ({known.device}), {known.runtime} runtime, {known.precision}"
                + (f", {known.threads} threads" if known.threads else "")
                + f", batch {known.batch}; includes {known.includes}; excludes {known.excludes}"
            )
            ways.setdefault(way, []).append(known)
    return [
        f"{way}; median of {_range([known.runs for known in alike])} runs "
        f"after {_range([known.warmup for known in alike])} to warm up"
        for way, alike in ways.items()
    ]


def _range(counts: Sequence[int]) -> str:
    """How often something was done: a fast detector is run more often in the same time."""
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def steadiness(trials: Sequence[Trial]) -> str:
    """How many latencies were measured with a steady clock; one that a training has from the one which it goes on with,
    or from a survey, was measured once."""
    measured = {(trial.code, latency) for trial in trials if (latency := latency_of(trial)) is not None}
    steady = [latency.steady for _, latency in measured]
    if not steady:
        return "no latency measured"
    return f"{sum(steady)} of {len(steady)} measurements steady" + (
        "" if all(steady) else f", the others marked {UNSTEADY}"
    )


def front_by_cost(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The front from cheap to dear: by the first minimised objective, else best first by the first one."""
    by = next((objective for objective in objectives if not objective.maximise), objectives[0])
    return sorted(front(trials, objectives), key=lambda trial: trial.values()[by.name] * (-1 if by.maximise else 1))


def provenance(view: StudyView, trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """Label and value of everything that says where the figures come from."""
    ways = protocols(trials)
    facts = [
        ("Study folder", view.folder),
        ("Objectives", ", ".join(map(str, view.objectives))),
        ("Limits", ", ".join(map(str, view.limits))),
        ("Space", "" if view.space_size is None else f"{view.space_size} candidates"),
        ("Seed", str(view.seed)),
        ("Created", moment(view.created)),
        ("Finished", moment(view.finished)),
        ("Device", view.device),
        *(("Latency" if len(ways) == 1 else f"Latency, way {i}", way) for i, way in enumerate(ways, 1)),
        ("Latency protocol", view.protocol),
        ("Clock", steadiness(trials)),
        *((label, str(value)) for label, value in view.data.items()),
        *view.versions.items(),
    ]
    if len(ways) > 1:
        facts.append(("Caution", f"latencies were measured in {len(ways)} ways and do not compare across them"))
    if heirs := sum(map(began_trained, trials)):
        of_these = "whose figures are not those of training from scratch"
        facts.append(("Caution", f"{count(heirs, 'trial')} began with inherited weights, {of_these}"))
    return [(label, value) for label, value in facts if value]


def duration(seconds: float) -> str:
    """``42 s``, ``7 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def moment(when: datetime | None) -> str:
    """A time as the report writes it, its zone kept."""
    return "" if when is None else when.strftime("%Y-%m-%d %H:%M %Z").strip()
