"""The front as a still picture (PNG, SVG or PDF) for documents, drawn by matplotlib: extra ``plots``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from detsearch.errors import ResourceError
from detsearch.files import replacing
from detsearch.report.columns import significant
from detsearch.report.scene import Scene, axis_title, log_ticks, scene, shown
from detsearch.report.view import StudyView, latency_of
from detsearch.search.trial import Trial

INK: Final = "#1b1f24"
MUTED: Final = "#5b6470"
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
}
STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "detsearch",  # else every drawing has ids of its own
    "text.parse_math": False,  # names are literal text
}
FORMATS: Final = (".png", ".svg", ".pdf")


def save_front(path: Path, view: StudyView, trials: Sequence[Trial]) -> None:
    """Draw the front as `plots.front_figure` does, on white. The same study gives the same bytes.

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
    picture = scene(view, trials)
    style: dict[Any, Any] = {
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": "detsearch",
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        drawing = Figure(figsize=(7.2, 4.2), layout="constrained")
        plot, strip = drawing.subplots(2, 1, sharex=True, height_ratios=(14, 1))
        _draw_front(plot, picture)
        _draw_marks(strip, picture)
        _draw_axes(plot, strip, picture)
        _draw_legend(drawing, picture)
        stamp = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[path.suffix]
        with replacing(path) as partial:
            drawing.savefig(partial, dpi=200, metadata=stamp)


def _draw_front(plot: Any, picture: Scene) -> None:
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
            marker, colour = MARKERS[picture.symbol(trial)], picture.colours[trial.spec.input]
            plot.scatter(*place, s=size, marker=marker, color=colour, edgecolors=INK, linewidths=outline, zorder=2)
            if trials is picture.front:
                plot.annotate(
                    str(trial.number), place, xytext=(-5, 5), textcoords="offset points", ha="right", fontsize=8
                )
    for reference in picture.references:
        raw = reference.values[picture.x.name]
        place = (shown(picture.x, raw), shown(picture.y, reference.values[picture.y.name]))
        plot.scatter(*place, s=70, marker="*", facecolors="none", edgecolors=INK, linewidths=0.9)
        side, offset = ("right", -7) if picture.right_half(raw) else ("left", 7)
        plot.annotate(reference.name, place, xytext=(offset, 4), textcoords="offset points", ha=side, fontsize=8)


def _draw_marks(strip: Any, picture: Scene) -> None:
    """Trials without a result at their cost; those beyond the axis at its edge."""
    for trial in picture.others:
        mark = picture.mark(trial)
        face = {} if mark in ("tick", "x") else {"facecolors": "none"}  # those two have no inside
        position = shown(picture.x, picture.inside(picture.at(trial)[0]))
        strip.scatter(position, 0, s=26, marker=MARKERS[mark], color=MUTED, linewidths=1, clip_on=False, **face)


def _draw_axes(plot: Any, strip: Any, picture: Scene) -> None:
    low, high = (shown(picture.x, edge) for edge in picture.span)
    if picture.log:
        from matplotlib.ticker import NullFormatter

        ticks = log_ticks(math.log10(low), math.log10(high))
        strip.set_xscale("log")
        strip.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        strip.xaxis.set_minor_formatter(NullFormatter())
    strip.set_xlim(low, high)
    strip.set_ylim(-1, 1)
    strip.set_yticks([])
    strip.set_xlabel(axis_title(picture.x))
    plot.set_ylabel(axis_title(picture.y))
    plot.grid(color="#e3e6ea", linewidth=0.6)
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


def _draw_legend(drawing: Any, picture: Scene) -> None:
    from matplotlib.lines import Line2D

    entries = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=MARKERS[entry.symbol],
            markerfacecolor=entry.colour or "none",
            markeredgecolor=INK,
            label=entry.name,
        )
        for group in picture.key().values()
        for entry in group
    ]
    if entries:
        drawing.legend(handles=entries, loc="outside right upper", frameon=False, fontsize=8, handletextpad=0.3)
