"""A comparison as a table."""

from __future__ import annotations

from detsearch.intervals import Interval
from detsearch.report.markdown import code_span, escape_markdown
from detsearch.report.view import UNSTEADY
from detsearch.runs.comparison import Comparison, Row

COSTS = {
    "params": ("M parameters", 1e6),
    "macs": ("GMACs", 1e9),
    "latency_ms": ("ms", 1.0),
    "transformations": ("transformations", 1.0),
    "search_seconds": ("hours of search", 3600.0),
    "search_peak_bytes": ("GB of search", 1e9),
}
"""Header and unit of what detectors cost, and of what the searches of their heads took."""


def markdown_comparison(found: Comparison) -> str:
    """Every arm with its figures in percent, mean and 95 % interval over the seeds, and below them, in brackets, the
    difference from the first arm at equal seeds, bold where its interval leaves zero out; and what its detectors cost,
    the mean, least and most of them where seeds have different ones, which then stand below the table."""
    settings = list(dict.fromkeys(name for row in found.rows for name in row.settings))
    costs = [name for name in COSTS if any(name in row.costs for row in found.rows)]
    headers = ["arm", *settings, *found.names, *(COSTS[name][0] for name in costs), "seeds", "detector"]
    rules = "---|" * (1 + len(settings)) + "---:|" * (len(headers) - len(settings) - 2) + "---|"
    lines = [f"| {' | '.join(map(escape_markdown, headers))} |", f"|{rules}"]
    for row in found.rows:
        codes = set(row.detectors.values())
        cells = [row.arm, *(row.settings.get(name, "-") for name in settings)]
        cells = [*map(escape_markdown, cells), *(_cell(row, name) for name in found.names)]
        cells += [_cost(row, name) if name in row.costs else "-" for name in costs]
        cells += [str(len(row.detectors)), code_span(codes.pop()) if len(codes) == 1 else f"{len(codes)} different"]
        lines.append(f"| {' | '.join(cells)} |")
    several = [row for row in found.rows if len(set(row.detectors.values())) > 1]
    notes = [
        f"- {escape_markdown(row.arm)}, seed {seed}: {code_span(code)}"
        for row in several
        for seed, code in row.detectors.items()
    ]
    if any("latency_ms" in row.costs and not row.steady for row in found.rows):
        notes.append(f"- {UNSTEADY} a measurement that was not steady is among them")
    notes += [f"- {escape_markdown(run)} failed: {escape_markdown(why)}" for run, why in found.failed.items()]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def _cell(row: Row, name: str) -> str:
    figure, difference = row.figures.get(name), row.differences.get(name)
    if figure is None:
        return "-"
    text = _percent(figure, sign=False)
    if difference is None:
        return text
    shown = _percent(difference, sign=True)
    return f"{text} ({f'**{shown}**' if difference.decided else shown})"


def _cost(row: Row, name: str) -> str:
    value, unit = row.costs[name], COSTS[name][1]
    mean, least, most = (f"{figure / unit:.3g}" for figure in (value.mean, value.least, value.most))
    shown = mean if least == most else f"{mean} ({least} to {most})"
    return shown + UNSTEADY if name == "latency_ms" and not row.steady else shown


def _percent(value: Interval, *, sign: bool) -> str:
    mean = f"{100 * value.mean:{'+' if sign else ''}.1f}"
    return mean if value.half is None else f"{mean} ± {100 * value.half:.1f}"
