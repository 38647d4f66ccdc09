"""Stage two's front over stage one's points: what a picture of both shows, and the interactive one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final

import plotly.graph_objects as go

from detsearch.report.plots import INK, hover, layout, set_span
from detsearch.report.scene import (
    CHOSEN_MARK,
    HUES,
    KNOWN_MARK,
    SYMBOLS,
    KeyEntry,
    axes,
    axis_title,
    shown,
    step_line,
    value,
    visible,
)
from detsearch.report.view import StudyView
from detsearch.search.objective import Objective
from detsearch.search.pareto import measured
from detsearch.search.trial import Trial

GREY: Final = "#9aa4b0"
"""Of stage one's points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagesScene:
    """Both searches against the axes of the second: the `first` one's points, of which some were `chosen`, and under
    each structure's name its colour and its points; the `baselines` among these; both fronts on these axes as the
    corners of lines."""

    x: Objective
    y: Objective
    first: list[Trial]
    chosen: list[Trial]
    parts: dict[str, tuple[str, list[Trial]]]
    baselines: list[Trial]
    span: tuple[float, float]
    log: bool
    first_step: list[tuple[float, float]]
    step: list[tuple[float, float]]

    def at(self, trial: Trial) -> tuple[float, float]:
        """Where a trial is drawn, in the axes' units."""
        return shown(self.x, value(trial, self.x)), shown(self.y, value(trial, self.y))

    def key(self) -> list[KeyEntry]:
        return [
            KeyEntry("stage one", SYMBOLS[0], GREY),
            *([KeyEntry("searched inside", CHOSEN_MARK)] if self.chosen else []),
            *([KeyEntry("the structure as it was, trained like its variants", KNOWN_MARK)] if self.baselines else []),
            *(KeyEntry(name, SYMBOLS[0], colour) for name, (colour, _) in self.parts.items()),
        ]


def stages_scene(view: StudyView, trials: Sequence[Trial]) -> StagesScene | None:
    """The picture of a search inside of structures and the one that it began from; None where there is none, or no
    trial of it has the figures of the axes."""
    if view.first is None or len(view.objectives) < 2:
        return None
    x, y = axes(view.objectives)

    def drawn(some: Sequence[Trial]) -> list[Trial]:
        return [t for t in some if math.isfinite(value(t, x)) and math.isfinite(value(t, y))]

    first, second = drawn(view.first.trials), drawn(measured(trials, view.objectives))
    if not first:
        return None
    baselines = {lift.baseline.number for lift in view.lifts.values() if not isinstance(lift, str)}
    span, log = visible([value(trial, x) for trial in (*first, *second)])

    def line(some: Sequence[Trial]) -> list[tuple[float, float]]:
        corners = step_line([(value(t, x), value(t, y)) for t in some], x, y, span)
        return [(shown(x, a), shown(y, b)) for a, b in corners]

    return StagesScene(
        x=x,
        y=y,
        first=first,
        chosen=[trial for trial in first if trial.number in view.first.chosen],
        parts={
            name: (colour, [trial for trial in second if trial.number in numbers])
            for (name, numbers), colour in zip(view.parts.items(), cycle(HUES))
        },
        baselines=[trial for trial in second if trial.number in baselines],
        span=span,
        log=log,
        first_step=line(first),
        step=line(second),
    )


def stages_figure(picture: StagesScene) -> go.Figure:
    """The picture, interactive."""
    drawing = go.Figure()
    for corners, dash in ((picture.first_step, "dot"), (picture.step, "solid")):
        drawing.add_trace(
            go.Scatter(
                x=[x for x, _ in corners],
                y=[y for _, y in corners],
                mode="lines",
                line={"color": INK, "width": 1.5, "dash": dash},
                hoverinfo="skip",
            )
        )
    for colour, trials in ((GREY, picture.first), *picture.parts.values()):
        drawing.add_trace(_points(picture, trials, {"symbol": "circle", "size": 9, "color": colour}, told=True))
    ring = {"symbol": "circle-open", "size": 20, "color": INK, "line": {"width": 1.5}}
    star = {"symbol": "star-open", "size": 18, "color": INK, "line": {"width": 1.5}}
    drawing.add_trace(_points(picture, picture.chosen, ring, told=False))
    drawing.add_trace(_points(picture, picture.baselines, star, told=False))
    drawing.update_layout(layout(axis_title(picture.x), axis_title(picture.y)), height=470, showlegend=False)
    set_span(drawing, (shown(picture.x, picture.span[0]), shown(picture.x, picture.span[1])), log=picture.log)
    return drawing


def _points(picture: StagesScene, trials: Sequence[Trial], marker: dict[str, object], *, told: bool) -> go.Scatter:
    return go.Scatter(
        x=[picture.at(trial)[0] for trial in trials],
        y=[picture.at(trial)[1] for trial in trials],
        mode="markers",
        marker=marker,
        hovertext=[hover(trial, (picture.y, picture.x)) for trial in trials] if told else None,
        hoverinfo="text" if told else "skip",
    )
