"""What a picture of a study shows, whatever draws it: the axes, the points, the front's step line, colours, symbols."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final, Literal, TypeAlias

import numpy as np

from detsearch.arch.spec import ModuleSpec
from detsearch.report.columns import figure
from detsearch.report.view import StudyView, backbone_family, backbone_names, front_by_cost
from detsearch.search.objective import Objective
from detsearch.search.pareto import hypervolume, matrix, measured, non_dominated, reference_point
from detsearch.search.trial import Trial, TrialState
from detsearch.types import InputSize

TRIAL_NUMBER: Final = Objective("number", maximise=False)
"""The horizontal axis of a study with a single objective, so that its step line is the best value so far."""

PALETTE: Final = ("#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39")
"""Input sizes from small to large: viridis without its ends, ordered in lightness too, so that grey print keeps it."""

HUES: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8c8c8c")
"""Backbones, or structures: Okabe and Ito's colours, which the colour-blind tell apart; more than these share them."""

SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagon", "triangle-down", "cross")
"""Backbone families in alphabetical order; more than these share symbols."""

MARKS: Final = {TrialState.PRUNED: "tick", TrialState.FAILED: "x"}
WAITING_MARK: Final = "ring"
KNOWN_MARK: Final = "star"
CHOSEN_MARK: Final = "halo"
BEYOND_MARK: Final = "arrow"
"""How trials without a result are marked on the cost axis."""

By: TypeAlias = Literal["input", "backbone"]
"""What colours tell apart."""

LOG_RATIO: Final = 20.0
"""Costs that differ by more than this are drawn on a logarithmic axis."""

MARGIN: Final = 0.07
"""Room left of and right of the points, as a share of the axis."""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """What one symbol means, and its colour; None where the symbol is not filled."""

    name: str
    symbol: str
    colour: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The picture of a study: `y` against `x`. All values are as stored; `shown` turns them into the axis' unit.

    `front` and `dominated` are the trials compared with each other; `others` have a known cost but no comparable
    result (pruned, failed, unfinished) and are shown on the cost axis only. `span` is the visible part of the x axis;
    what lies beyond it is drawn at its edge. `step` is the front of the two axes as the corners of a line. `known` are
    the names of known detectors among the points, by trial number; `chosen` the trials that another search went inside.
    `backbones` are their names, `hues` the names' colours, in alphabetical order.
    """

    x: Objective
    y: Objective
    front: list[Trial]
    dominated: list[Trial]
    others: list[Trial]
    limit: float | None
    span: tuple[float, float]
    log: bool
    step: list[tuple[float, float]]
    colours: Mapping[InputSize, str]
    families: list[str]
    backbones: Mapping[ModuleSpec, str]
    hues: Mapping[str, str]
    known: Mapping[int, str]
    chosen: frozenset[int]

    def colour(self, trial: Trial, by: By) -> str:
        if by == "input":
            return self.colours[trial.spec.input]
        return self.hues[self.backbones[trial.spec.network.backbone]]

    def marked(self, numbers: Collection[int]) -> list[Trial]:
        """The points among the trials of these numbers."""
        return [trial for trial in (*self.front, *self.dominated) if trial.number in numbers]

    def at(self, trial: Trial) -> tuple[float, float]:
        return value(trial, self.x), value(trial, self.y)

    def inside(self, position: float) -> float:
        """A position on the x axis, moved to the edge if it is beyond it."""
        return min(max(position, self.span[0]), self.span[1])

    def symbol(self, trial: Trial) -> str:
        return SYMBOLS[self.families.index(backbone_family(trial.spec)) % len(SYMBOLS)]

    def mark(self, trial: Trial) -> str:
        """The symbol of a trial without a result."""
        return BEYOND_MARK if self.at(trial)[0] > self.span[1] else MARKS.get(trial.state, WAITING_MARK)

    def key(self, by: By = "input") -> dict[str, list[KeyEntry]]:
        """What colours and symbols mean, by group; groups without entries are left out."""
        marks = {}
        for trial in self.others:
            mark = self.mark(trial)
            name = {BEYOND_MARK: "further right", WAITING_MARK: "not finished"}.get(mark, str(trial.state))
            marks[mark] = KeyEntry(name, mark)
        shapes: dict[str, str] = {}
        for trial in (*self.front, *self.dominated):
            shapes.setdefault(self.backbones[trial.spec.network.backbone], self.symbol(trial))
        coloured = {
            "input": {
                "Input": [KeyEntry(str(size), SYMBOLS[0], colour) for size, colour in self.colours.items()],
                "Backbone": [KeyEntry(name, SYMBOLS[i % len(SYMBOLS)]) for i, name in enumerate(self.families)],
            },
            "backbone": {"Backbone": [KeyEntry(name, shapes[name], hue) for name, hue in self.hues.items()]},
        }[by]
        special = [
            *([KeyEntry("known detector", KNOWN_MARK)] if self.marked(self.known) else []),
            *([KeyEntry("searched inside", CHOSEN_MARK)] if self.marked(self.chosen) else []),
        ]
        groups = {**coloured, "Marked": special, "Without result": list(marks.values())}
        return {group: entries for group, entries in groups.items() if entries}

    def right_half(self, position: float) -> bool:
        """Is a position on the x axis nearer to its end? There labels go to the left."""
        low, high = self.span
        return position > (math.sqrt(low * high) if self.log else (low + high) / 2)


def value(trial: Trial, objective: Objective) -> float:
    return float(trial.number) if objective is TRIAL_NUMBER else trial.values().get(objective.name, math.nan)


def axis_title(objective: Objective) -> str:
    return "Trial" if objective is TRIAL_NUMBER else figure(objective.name).header


def shown(objective: Objective, raw: float) -> float:
    """A stored value in the unit of its axis."""
    return raw * figure(objective.name).scale


def log_ticks(low: float, high: float) -> list[float]:
    """The numbers 1, 2 and 5 times powers of ten between 10**low and 10**high."""
    candidates = [d * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for d in (1, 2, 5)]
    return [tick for tick in candidates if 10.0**low <= tick <= 10.0**high]


def axes(objectives: Sequence[Objective]) -> tuple[Objective, Objective]:
    """(x, y) of the first two objectives: what is minimised lies on x, the first one on y where both are alike."""
    if len(objectives) == 1:
        return TRIAL_NUMBER, objectives[0]
    first, second = objectives[:2]
    return (first, second) if second.maximise and not first.maximise else (second, first)


def scene(view: StudyView, trials: Sequence[Trial]) -> Scene:
    """Arrange a study for drawing: trials of the highest fidelity are points, all others with a cost are marks."""
    x, y = axes(view.objectives)
    compared = measured(trials, view.objectives)
    backbones = backbone_names([trial.spec for trial in compared], len(HUES))
    front = front_by_cost(trials, view.objectives)
    on_front = {trial.number for trial in front}
    apart = (TrialState.COMPLETE, TrialState.COSTED)
    others = [t for t in trials if t.state not in apart and math.isfinite(value(t, x))]
    limit = next((limit.upper for limit in view.limits if limit.name == x.name), None)
    positions = [value(t, x) for t in compared] or [value(t, x) for t in others]
    span, log = visible(positions, limit)
    return Scene(
        x=x,
        y=y,
        front=front,
        dominated=[trial for trial in compared if trial.number not in on_front],
        others=others,
        limit=limit if limit is not None and span[0] <= limit <= span[1] else None,
        span=span,
        log=log,
        step=step_line([(value(t, x), value(t, y)) for t in compared], x, y, span),
        colours=_colours({trial.spec.input for trial in compared}),
        families=sorted({backbone_family(trial.spec) for trial in compared}),
        backbones=backbones,
        hues=dict(zip(sorted(set(backbones.values())), cycle(HUES))),
        known=view.known,
        chosen=view.chosen,
    )


def growth(trials: Sequence[Trial], objectives: Sequence[Objective]) -> tuple[list[int], list[float], list[float]]:
    """How the front grew: trial numbers of the compared trials, the hypervolume after each as a share of the last
    one's, and the reference point (stored values, in the order of the objectives): the worst value of each objective,
    a tenth of its range further out. Empty lists where nothing can be compared."""
    compared = sorted(measured(trials, objectives), key=lambda trial: trial.number)
    if not compared:
        return [], [], []
    points = matrix(compared, objectives)
    reference = reference_point(points)
    volumes = [hypervolume(points[: i + 1], reference.tolist()) for i in range(len(points))]
    signs = [-1.0 if objective.maximise else 1.0 for objective in objectives]
    return (
        [trial.number for trial in compared],
        [volume / volumes[-1] for volume in volumes],
        [float(sign * coordinate) for sign, coordinate in zip(signs, reference, strict=True)],
    )


def visible(positions: Sequence[float], limit: float | None = None) -> tuple[tuple[float, float], bool]:
    """The visible part of the x axis and whether it is logarithmic; the limit is shown where it is near the points."""
    if not positions:
        return (0.0, 1.0), False
    low, high = min(positions), max(positions)
    if limit is not None and high < limit <= 1.5 * high:
        high = limit
    if low > 0 and high / low > LOG_RATIO:
        room = (high / low) ** MARGIN
        return (low / room, high * room), True
    room = MARGIN * (high - low) or 0.1 * abs(high) or 1.0
    return (low - room, high + room), False


def step_line(
    points: Sequence[tuple[float, float]], x: Objective, y: Objective, span: tuple[float, float]
) -> list[tuple[float, float]]:
    """Corners of the line that separates what was reached from what was not, out to the edge where x is worst."""
    if not points:
        return []
    signs = np.array([-1.0 if objective.maximise else 1.0 for objective in (x, y)])
    array = np.array(points)
    kept = np.unique(array[non_dominated(array * signs)], axis=0)
    corners: list[tuple[float, float]] = []
    for here, height in (kept[::-1] if x.maximise else kept).tolist():
        if corners:
            corners.append((here, corners[-1][1]))
        corners.append((here, height))
    return [*corners, (span[0] if x.maximise else span[1], corners[-1][1])]


def _colours(sizes: set[InputSize]) -> dict[InputSize, str]:
    ordered = sorted(sizes, key=lambda size: (size.width * size.height, size))
    last = len(PALETTE) - 1
    return {
        size: _between(last * (i / (len(ordered) - 1) if len(ordered) > 1 else 0.4)) for i, size in enumerate(ordered)
    }


def _between(position: float) -> str:
    """The palette's colour at a real-valued position."""
    low = min(int(position), len(PALETTE) - 2)
    pairs = [(int(PALETTE[low][i : i + 2], 16), int(PALETTE[low + 1][i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * (position - low)):02x}" for a, b in pairs)
