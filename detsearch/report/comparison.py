"""A comparison as a table."""

from __future__ import annotations

from detsearch.intervals import Interval
from detsearch.report.markdown import code_span, escape_markdown
from detsearch.runs.compare import Comparison, Row

COSTS = {"params": ("M parameters", 1e6), "macs": ("GMACs", 1e9), "latency_ms": ("ms", 1.0)}
"""Header and unit of what a detector costs."""


def markdown_comparison(found: Comparison) -> str:
    """Every arm with its figures in percent, mean and 95 % interval over the seeds, and below them, in brackets, the
    difference from the first arm at equal seeds, bold where its interval leaves zero out."""
    costs = [name for name in COSTS if any(name in row.costs for row in found.rows)]
    headers = ["arm", *found.names, *(COSTS[name][0] for name in costs), "seeds", "detector"]
    lines = [f"| {' | '.join(map(escape_markdown, headers))} |", "|---" + "|---:" * (len(headers) - 2) + "|---|"]
    for row in found.rows:
        cells = [escape_markdown(row.arm), *(_cell(row, name) for name in found.names)]
        cells += [f"{row.costs[name] / COSTS[name][1]:.3g}" if name in row.costs else "-" for name in costs]
        cells += [str(row.seeds), code_span(row.detector)]
        lines.append(f"| {' | '.join(cells)} |")
    if found.failed:
        lines += [
            "",
            *(f"- {escape_markdown(run)} failed: {escape_markdown(why)}" for run, why in found.failed.items()),
        ]
    return "\n".join(lines) + "\n"


def _cell(row: Row, name: str) -> str:
    figure, difference = row.figures.get(name), row.differences.get(name)
    if figure is None:
        return "-"
    text = _percent(figure, sign=False)
    if difference is None:
        return text
    shown = _percent(difference, sign=True)
    return f"{text} ({f'**{shown}**' if difference.decided else shown})"


def _percent(value: Interval, *, sign: bool) -> str:
    mean = f"{100 * value.mean:{'+' if sign else ''}.1f}"
    return mean if value.half is None else f"{mean} ± {100 * value.half:.1f}"
