"""Still pictures of a study (PNG, SVG or PDF) for documents, drawn by matplotlib: extra ``plots``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from detsearch.errors import ResourceError
from detsearch.files import replacing
from detsearch.report.analysis import correlation_rows
from detsearch.report.columns import figure, significant
from detsearch.report.scene import (
    CHOSEN_MARK,
    KNOWN_MARK,
    By,
    KeyEntry,
    Scene,
    axis_title,
    log_ticks,
    scene,
    shown,
)
from detsearch.report.stages import GREY, StagesScene
from detsearch.report.view import StudyView, latency_of
from detsearch.search.analysis import Analysis
from detsearch.search.factors import FACTORS
from detsearch.search.objective import Objective
from detsearch.search.trial import Trial

INK: Final = "#1b1f24"
MUTED: Final = "#5b6470"
RULE: Final = "#e3e6ea"
MARKERS: Final = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "pentagon": "p",
    "hexagon": "h",
    "triangle-down": "v",
    "cross": "P",
    "tick": "|",
    "x": "x",
    "ring": "o",
    "arrow": ">",
    "star": "*",
    "halo": "o",
}
STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "detsearch",  # else every drawing has ids of its own
    "text.parse_math": False,  # names are literal text
}
FORMATS: Final = (".png", ".svg", ".pdf")


def save_front(path: Path, view: StudyView, trials: Sequence[Trial], by: By = "input") -> None:
    """Draw the front as `plots.front_figure` does, on white, coloured by what `by` says.

    ResourceError as `saved` says.
    """
    picture = scene(view, trials)
    with saved(path, (7.2, 4.2)) as drawing:
        plot, strip = drawing.subplots(2, 1, sharex=True, height_ratios=(14, 1))
        _draw_front(plot, picture, by)
        _draw_marks(strip, picture)
        _draw_axes(plot, strip, picture)
        _draw_legend(drawing, [entry for group in picture.key(by).values() for entry in group])


@contextmanager
def saved(path: Path, inches: tuple[float, float]) -> Iterator[Any]:
    """A matplotlib figure to draw on, which is written to `path` when the block ends well. The same drawing gives the
    same bytes.

    ResourceError where matplotlib is missing, the suffix is not one of FORMATS, or the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        hint = 'pip install "detsearch[plots]"'
        raise ResourceError("still pictures", "matplotlib", "no such package", hint) from None
    if path.suffix not in FORMATS:
        raise ResourceError(str(path), f"a name that ends in {', '.join(FORMATS)}", repr(path.suffix))
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=inches, layout="constrained")
        yield drawing
        stamp = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[path.suffix]
        with replacing(path) as partial:
            drawing.savefig(partial, dpi=200, metadata=stamp)


def save_stages(path: Path, picture: StagesScene) -> None:
    """Draw stage two's front over stage one's points. ResourceError as `saved` says."""
    with saved(path, (7.2, 4.2)) as drawing:
        plot = drawing.subplots()
        for corners, style in ((picture.first_step, ":"), (picture.step, "-")):
            if corners:
                plot.plot(*zip(*corners, strict=True), color=MUTED, linewidth=1, linestyle=style, zorder=1)
        for colour, trials in ((GREY, picture.first), *picture.parts.values()):
            for trial in trials:
                plot.scatter(*picture.at(trial), s=22, color=colour, edgecolors=INK, linewidths=0.4, zorder=2)
        for marker, size, trials in (("o", 130, picture.chosen), ("*", 160, picture.baselines)):
            for trial in trials:
                plot.scatter(*picture.at(trial), s=size, marker=marker, facecolors="none", edgecolors=INK, zorder=3)
        _set_span(plot, picture.x, picture.span, log=picture.log)
        plot.set_xlabel(axis_title(picture.x))
        plot.set_ylabel(axis_title(picture.y))
        plot.grid(color=RULE, linewidth=0.6)
        plot.set_axisbelow(True)
        _draw_legend(drawing, picture.key(), below=True)


def save_correlations(path: Path, found: Analysis) -> None:
    """Draw the correlation matrix: a row for each group of trials, figures in the cells, bold where their interval
    leaves zero out. ResourceError as `saved` says."""
    rows = correlation_rows(found)
    with saved(path, (9.0, 1.1 + 0.38 * len(rows))) as drawing:
        plot = drawing.subplots()
        tints = [
            [(*(channel / 255 for channel in cell.rgba[:3]), cell.rgba[3]) for cell in cells] for *_, cells in rows
        ]
        plot.imshow(tints, aspect="auto", interpolation="nearest")
        for y, (_, _, cells) in enumerate(rows):
            for x, cell in enumerate(cells):
                weight = "bold" if cell.decided else "normal"
                plot.text(x, y, cell.text, ha="center", va="center", color=INK, fontweight=weight)
        plot.set_xticks(range(len(FACTORS)), [title for title, _ in FACTORS.values()])
        plot.set_yticks(range(len(rows)), [f"{name} ({count})" for name, count, _ in rows])
        plot.tick_params(length=0, labeltop=True, labelbottom=False)
        plot.set_title(f"Rank correlation with {figure(found.accuracy).title}", fontsize=10)
        for spine in plot.spines.values():
            spine.set_visible(False)


def _draw_front(plot: Any, picture: Scene, by: By) -> None:
    if picture.step:
        corners = [(shown(picture.x, x), shown(picture.y, y)) for x, y in picture.step]
        plot.plot(*zip(*corners, strict=True), color=MUTED, linewidth=1, zorder=1)
    for trials, size, outline in ((picture.dominated, 22, 0.4), (picture.front, 60, 1.0)):
        for trial in trials:
            x, y = picture.at(trial)
            place = (shown(picture.x, x), shown(picture.y, y))
            latency = latency_of(trial) if picture.x.name == "latency_ms" else None
            if latency is not None:
                plot.errorbar(*place, xerr=latency.iqr_ms / 2, color=MUTED, linewidth=0.8, capsize=1.5, zorder=1.5)
            marker, colour = MARKERS[picture.symbol(trial)], picture.colour(trial, by)
            plot.scatter(*place, s=size, marker=marker, color=colour, edgecolors=INK, linewidths=outline, zorder=2)
            if trials is picture.front:
                plot.annotate(
                    str(trial.number), place, xytext=(-5, 5), textcoords="offset points", ha="right", fontsize=8
                )
    for mark, numbers in ((CHOSEN_MARK, picture.chosen), (KNOWN_MARK, picture.known)):
        for trial in picture.marked(numbers):
            place = shown(picture.x, picture.at(trial)[0]), shown(picture.y, picture.at(trial)[1])
            plot.scatter(*place, s=170, marker=MARKERS[mark], facecolors="none", edgecolors=INK, linewidths=0.9)
            if mark == KNOWN_MARK:
                side, offset = ("right", -7) if picture.right_half(picture.at(trial)[0]) else ("left", 7)
                name = picture.known[trial.number]
                plot.annotate(name, place, xytext=(offset, -11), textcoords="offset points", ha=side, fontsize=8)


def _draw_marks(strip: Any, picture: Scene) -> None:
    """Trials without a result at their cost; those beyond the axis at its edge."""
    for trial in picture.others:
        mark = picture.mark(trial)
        face = {} if mark in ("tick", "x") else {"facecolors": "none"}  # those two have no inside
        position = shown(picture.x, picture.inside(picture.at(trial)[0]))
        strip.scatter(position, 0, s=26, marker=MARKERS[mark], color=MUTED, linewidths=1, clip_on=False, **face)


def _draw_axes(plot: Any, strip: Any, picture: Scene) -> None:
    _set_span(strip, picture.x, picture.span, log=picture.log)
    strip.set_ylim(-1, 1)
    strip.set_yticks([])
    strip.set_xlabel(axis_title(picture.x))
    plot.set_ylabel(axis_title(picture.y))
    plot.grid(color=RULE, linewidth=0.6)
    plot.set_axisbelow(True)
    plot.tick_params(bottom=False)
    for side in ("top", "right", "bottom"):
        plot.spines[side].set_visible(False)
    for side in ("top", "right", "left"):
        strip.spines[side].set_visible(False)
    if picture.limit is not None:
        limit = shown(picture.x, picture.limit)
        plot.axvline(limit, color=MUTED, linewidth=0.8, linestyle=":")
        plot.annotate(
            f"limit {significant(limit)}",
            (limit, 0),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )


def _set_span(plot: Any, x: Objective, span: tuple[float, float], *, log: bool) -> None:
    low, high = (shown(x, edge) for edge in span)
    if log:
        from matplotlib.ticker import NullFormatter

        ticks = log_ticks(math.log10(low), math.log10(high))
        plot.set_xscale("log")
        plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        plot.xaxis.set_minor_formatter(NullFormatter())
    plot.set_xlim(low, high)


def _draw_legend(drawing: Any, key: Sequence[KeyEntry], *, below: bool = False) -> None:
    """`below`: for names too long to stand beside the plot."""
    from matplotlib.lines import Line2D

    entries = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=MARKERS[entry.symbol],
            markersize=9 if entry.symbol == CHOSEN_MARK else 6,
            markerfacecolor=entry.colour or "none",
            markeredgecolor=INK,
            label=entry.name,
        )
        for entry in key
    ]
    if entries:
        place = "outside lower left" if below else "outside right upper"
        drawing.legend(handles=entries, loc=place, frameon=False, fontsize=8, handletextpad=0.3)
