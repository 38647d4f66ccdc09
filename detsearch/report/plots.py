"""Interactive figures of a study (plotly): the front, and how it grew. Colours of text and lines are the page's
business; here they are a grey that is legible on light and dark."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from typing import Any, Final, get_args

import plotly.graph_objects as go

from detsearch.report.columns import phrase, significant
from detsearch.report.scene import (
    CHOSEN_MARK,
    KNOWN_MARK,
    By,
    Scene,
    axis_title,
    growth,
    log_ticks,
    scene,
    shown,
)
from detsearch.report.view import StudyView, latency_of, lineage
from detsearch.search.objective import MAXIMISED, Objective
from detsearch.search.trial import Trial

INK: Final = "#6b7280"
GRID: Final = "rgba(127, 127, 127, 0.22)"
FONT: Final = "system-ui, sans-serif"
LINE: Final = "#277f8e"
CLEAR: Final = "rgba(0, 0, 0, 0)"
PLOTLY_NAMES: Final = {
    "hexagon": "hexagon2",
    "tick": "line-ns-open",
    "x": "x-thin-open",
    "ring": "circle-open",
    "arrow": "triangle-right-open",
    "star": "star-open",
    "halo": "circle-open",
}
"""Symbols of a scene that plotly calls otherwise."""


def front_figure(view: StudyView, trials: Sequence[Trial]) -> go.Figure:
    """The front among all trials that can be compared, coloured by input size, shaped by backbone family; below it
    the trials without a result at their cost. Hovering tells what each is. Points have ``meta.colours``, their colours
    by what these may tell apart, for the page's switch."""
    picture = scene(view, trials)
    drawing = go.Figure()
    if picture.step:
        drawing.add_trace(
            go.Scatter(
                x=[shown(picture.x, x) for x, _ in picture.step],
                y=[shown(picture.y, y) for _, y in picture.step],
                mode="lines",
                line={"color": INK, "width": 1.5},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    drawing.add_trace(_points(picture, picture.dominated, size=8, outline=0.5))
    drawing.add_trace(_points(picture, picture.front, size=13, outline=1.5, labelled=True))
    _add_known(drawing, picture)
    _add_marks(drawing, picture)
    _add_legend(drawing, picture)
    if picture.limit is not None:
        limit = shown(picture.x, picture.limit)
        drawing.add_vline(x=limit, line={"color": INK, "width": 1, "dash": "dot"})
        note = f"limit {significant(limit)}"
        drawing.add_annotation(
            x=_position(picture, limit),
            y=0,
            yref="y domain",
            text=note,
            showarrow=False,
            xanchor="right",
            yanchor="bottom",
        )
    drawing.update_layout(
        layout(axis_title(picture.x), axis_title(picture.y)),
        height=470,
        legend={"itemclick": False, "itemdoubleclick": False, "groupclick": "toggleitem", "tracegroupgap": 14},
    )
    set_span(drawing, (shown(picture.x, picture.span[0]), shown(picture.x, picture.span[1])), log=picture.log)
    drawing.update_yaxes(domain=[0.1, 1], tickformat=_digits(picture))
    drawing.update_layout(
        yaxis2={"domain": [0, 0.06], "range": [-1, 1], "visible": False, "fixedrange": True, "anchor": "x"},
    )
    drawing.update_xaxes(anchor="y2")
    return drawing


def growth_figure(view: StudyView, trials: Sequence[Trial]) -> go.Figure:
    """The front's hypervolume after each trial, as a share of the last one's."""
    numbers, shares, _ = growth(trials, view.objectives)
    drawing = go.Figure(
        go.Scatter(
            x=numbers,
            y=shares,
            mode="lines+markers" if len(numbers) < 3 else "lines",
            line={"color": LINE, "width": 2, "shape": "hv"},
            hovertemplate="after trial %{x}: %{y:.3f}<extra></extra>",
        )
    )
    drawing.update_layout(layout("Trial", "Hypervolume"), height=240, showlegend=False)
    drawing.update_yaxes(range=[0, 1.05])
    return drawing


def hover(trial: Trial, objectives: Sequence[Objective]) -> str:
    """What a trial is, in the small subset of HTML that plotly reads."""
    values = trial.values()
    names = dict.fromkeys(
        [*(objective.name for objective in objectives), "ap50", "mask_ap", "latency_ms", "params", "macs"]
    )
    lines = [f"<b>Trial {trial.number}</b>, {trial.state}"]
    for name in names:
        if name in values:
            latency = latency_of(trial) if name == "latency_ms" else None
            shaky = "" if latency is None or latency.steady else ", not steady"
            spread = "" if latency is None else f" (IQR {significant(latency.iqr_ms)}{shaky})"
            lines.append(_plain(phrase(name, values[name]) + spread))
    lines.append(f"{trial.fidelity.epochs} epochs, {_plain(lineage(trial))}")
    lines += [_plain(piece, 60) for piece in trial.code.split("/")]
    if trial.reason:
        lines.append(f"<i>{_plain(trial.reason, 60)}</i>")
    return "<br>".join(lines)


def _plain(text: str, width: int | None = None) -> str:
    """Untrusted text as itself, on lines of at most `width` characters."""
    line = " ".join(text.split())
    lines = textwrap.wrap(line, width) if width else [line]
    return "<br>".join(html.escape(part, quote=False) for part in lines)


def _points(
    picture: Scene, trials: Sequence[Trial], *, size: int, outline: float, labelled: bool = False
) -> go.Scatter:
    colours = {by: [picture.colour(trial, by) for trial in trials] for by in get_args(By)}
    iqr = [latency.iqr_ms / 2 if (latency := latency_of(trial)) is not None else 0.0 for trial in trials]
    return go.Scatter(
        x=[shown(picture.x, picture.at(trial)[0]) for trial in trials],
        y=[shown(picture.y, picture.at(trial)[1]) for trial in trials],
        mode="markers+text" if labelled else "markers",
        text=[str(trial.number) for trial in trials] if labelled else None,
        textposition="top left",
        textfont={"size": 11},
        error_x={"array": iqr, "thickness": 1, "width": 2, "color": INK} if picture.x.name == "latency_ms" else None,
        marker={
            "size": size,
            "symbol": [_symbol(picture.symbol(trial)) for trial in trials],
            "color": colours["input"],
            "line": {"width": outline, "color": INK},
            "opacity": 1,
        },
        hovertext=[hover(trial, (picture.y, picture.x)) for trial in trials],
        hoverinfo="text",
        showlegend=False,
        meta={"colours": colours},
    )


def _symbol(name: str) -> str:
    return PLOTLY_NAMES.get(name, name)


def _add_known(drawing: go.Figure, picture: Scene) -> None:
    """Stars around known detectors, with their names, and rings around those that were searched inside."""
    for mark, numbers in ((CHOSEN_MARK, picture.chosen), (KNOWN_MARK, picture.known)):
        trials = picture.marked(numbers)
        if not trials:
            continue
        names = [_plain(picture.known[t.number]) for t in trials] if mark == KNOWN_MARK else None
        right = [picture.right_half(picture.at(trial)[0]) for trial in trials]
        drawing.add_trace(
            go.Scatter(
                x=[shown(picture.x, picture.at(trial)[0]) for trial in trials],
                y=[shown(picture.y, picture.at(trial)[1]) for trial in trials],
                mode="markers" if names is None else "markers+text",
                text=names,
                textposition=["bottom left" if last else "bottom right" for last in right],
                textfont={"size": 11},
                marker={"symbol": _symbol(mark), "size": 22, "color": INK, "line": {"width": 1.5}},
                hoverinfo="skip",
                showlegend=False,
            )
        )


def _add_marks(drawing: go.Figure, picture: Scene) -> None:
    """Trials without a result, in a strip below the plot; those beyond the axis point outwards at its edge."""
    costs = [picture.at(trial)[0] for trial in picture.others]
    drawing.add_trace(
        go.Scatter(
            x=[shown(picture.x, picture.inside(cost)) for cost in costs],
            y=[0.0] * len(costs),
            yaxis="y2",
            mode="markers",
            cliponaxis=False,
            marker={
                "symbol": [_symbol(picture.mark(trial)) for trial in picture.others],
                "size": 9,
                "color": INK,
                "line": {"width": 1.5},
            },
            hovertext=[hover(trial, (picture.y, picture.x)) for trial in picture.others],
            hoverinfo="text",
            showlegend=False,
        )
    )


def _add_legend(drawing: go.Figure, picture: Scene) -> None:
    """Entries without points: colours and symbols are two keys to the same points."""
    for group, entries in picture.key().items():
        for entry in entries:
            symbol = _symbol(entry.symbol)
            colour = entry.colour or (INK if symbol.endswith("-open") else CLEAR)
            drawing.add_trace(
                go.Scatter(
                    x=[None],
                    y=[None],
                    mode="markers",
                    name=_plain(entry.name),
                    legendgroup=group,
                    legendgrouptitle={"text": group},
                    marker={"symbol": symbol, "size": 10, "color": colour, "line": {"width": 1, "color": INK}},
                )
            )


def _digits(picture: Scene) -> str | None:
    """How accuracies are written along the axis; all else as plotly thinks fit."""
    heights = [picture.at(trial)[1] for trial in (*picture.front, *picture.dominated)]
    if picture.y.name not in MAXIMISED or not heights:
        return None
    return ".2f" if max(heights) - min(heights) > 0.05 else ".3f"


def set_span(drawing: go.Figure, span: tuple[float, float], *, log: bool) -> None:
    """What the x axis shows, in its unit."""
    low, high = (math.log10(edge) if log else edge for edge in span)
    drawing.update_xaxes(range=[low, high])
    if log:
        ticks = log_ticks(low, high)
        drawing.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])


def layout(x_title: str, y_title: str) -> dict[str, Any]:
    axis = {"gridcolor": GRID, "linecolor": INK, "showline": True, "zeroline": False, "ticks": "outside"}
    return {
        "template": go.layout.Template(),
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"color": INK, "size": 13, "family": FONT},
        "margin": {"l": 64, "r": 12, "t": 34, "b": 56},
        "hoverlabel": {"align": "left", "font": {"size": 12, "family": FONT}},
        "hovermode": "closest",
        "modebar": {"bgcolor": CLEAR, "color": INK, "activecolor": LINE},
        "xaxis": {**axis, "title": {"text": x_title}},
        "yaxis": {**axis, "title": {"text": y_title}},
    }


def _position(picture: Scene, value: float) -> float:
    """Where ranges and annotations have a value: plotly wants its logarithm there on a logarithmic axis."""
    return math.log10(value) if picture.log else value
