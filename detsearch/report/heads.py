"""What a search of a head's cells found, as one page that loads nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from detsearch.arch.modules.towers import CellTowersSpec
from detsearch.files import write_text
from detsearch.report.cell_drawing import COLOURS, cell_svg, legend
from detsearch.report.html import TEMPLATES
from detsearch.runs.heads import TRAIN, HeadFound
from detsearch.runs.revision import named
from detsearch.supernet.detector import tower_of

HTML: Final = "report.html"
LINES: Final = ("#3b528b", "#b8860b")
"""Of the groups, in the plot of their entropies."""


def write_head_report(folder: Path, found: HeadFound) -> Path:
    """Write ``report.html`` into the search's folder. ResourceError where it cannot be written."""
    tower = tower_of(found.spec.network)
    order = tower.order if isinstance(tower, CellTowersSpec) else "parallel"
    environment = Environment(
        loader=PackageLoader("detsearch.report", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = files("detsearch.report").joinpath(TEMPLATES, "page.css").read_text(encoding="utf-8").strip()
    page = environment.get_template("head.html").render(
        name=folder.name,
        found=found,
        facts=_facts(found),
        cells=[(group, str(cell), cell_svg(cell, group, _inputs(group, order))) for group, cell in found.cells.items()],
        legend=legend(),
        entropies=_entropies(found.log),
        history=[(c.iteration, [(str(c.cells[g]), c.entropy[g]) for g in found.cells]) for c in found.history],
        command=train_command(folder),
        style=Markup(css),
    )
    write_text(folder / HTML, page)
    return folder / HTML


def train_command(folder: Path) -> str:
    """What trains the detector that was found."""
    place = shlex.quote(str(folder))
    return f"detsearch train --recipe {place}/{TRAIN} --out {place}-train"


def _inputs(group: str, order: str) -> tuple[str, str]:
    """What the first cell of a group reads."""
    first = {"sequential": "boxes", "reversed": "classes"}.get(order)
    if group == "mask" or first in (None, group):
        return "0: map", "1: map"
    return f"0: {first}' output", "1: map"


def _facts(found: HeadFound) -> list[tuple[str, str]]:
    facts = found.facts
    return [
        ("Searched from", str(facts["from"])),
        *_choices(found),
        *_effort(facts),
        ("Seed", str(facts["seed"])),
        ("Device", f"{facts['device_name']} ({facts['device']})"),
        ("detsearch", named(facts["versions"])),
    ]


def _choices(found: HeadFound) -> list[tuple[str, str]]:
    """What was searched, and how; of random cells what they were drawn from, and nothing where there are none."""
    facts = found.facts
    settings = facts["settings"]
    if not found.cells:
        return []
    operations = ("Operations", f"{settings['operations']} ({facts['transformations']})")
    if facts["method"] == "random":
        return [operations, ("Choice", "random")]
    cost = f"{settings['cost_weight']:g} ({settings['cost']})" if settings["cost_weight"] else "0"
    return [
        operations,
        ("Sharing", settings["sharing"]),
        ("Order of alpha's gradient", settings["gradient"]),
        ("Cells in a group", str(settings["cells"])),
        ("Images per step", str(settings["batch"])),
        ("Input while searching", settings["input"] or str(found.spec.input)),
        ("Weight of the cells' cost", cost),
    ]


def _effort(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a search took; nothing where none was made."""
    if not facts["images"]:
        return []
    rates = [f"{r['lr']:g} and {r['alpha_lr']:g} from iteration {r['iteration']:,} on" for r in facts["rates"]]
    return [
        ("Iterations", f"{facts['iterations']:,}"),
        ("Learning rates of weights and architecture", "; ".join(rates)),
        ("Time", f"{facts['search_seconds'] / 60:.1f} minutes"),
        ("Memory", f"{facts['search_peak_bytes'] / 2**20:,.0f} MiB at most"),
        ("Images", f"{facts['images'][0]} for the architecture, {facts['images'][1]} for the weights"),
    ]


def _entropies(log: Sequence[Mapping[str, Any]], width: int = 640, height: int = 200) -> Markup:
    """How the groups' entropies fell, as a plot; nothing where there are not two points."""
    points = [(int(r["iteration"]), dict(r["entropy"])) for r in log if "entropy" in r]
    if len(points) < 2:
        return Markup("")
    last = points[-1][0]
    top = max(max(values.values()) for _, values in points)
    left, right, foot, head = 44, 90, 26, 10

    def place(iteration: float, value: float) -> tuple[float, float]:
        x = left + (width - left - right) * iteration / last
        return round(x, 1), round(height - foot - (height - foot - head) * value / top, 1)

    parts = [
        Markup(
            '<svg class="cell" role="img" viewBox="0 0 {} {}" width="{}" xmlns="http://www.w3.org/2000/svg">'
        ).format(width, height, width),
        Markup("<title>Entropy of the architecture over the iterations</title>"),
    ]
    for value in (0.0, top / 2, top):
        _, y = place(0, value)
        parts.append(
            Markup(
                '<path d="M{} {}H{}" stroke="currentColor" opacity="0.2"/>'
                '<text x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(left, y, width - right, left - 6, y + 4, f"{value:.2f}")
        )
    for iteration in (0, last):
        x, y = place(iteration, 0)
        anchor = "middle" if iteration == 0 else "end"
        label = f"{iteration:,}" if iteration == 0 else f"{iteration:,} iterations"
        parts.append(Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y + 18, anchor, label))
    for number, group in enumerate(points[-1][1]):
        colour = LINES[number % len(LINES)]
        path = " ".join("{},{}".format(*place(iteration, values[group])) for iteration, values in points)
        x, y = place(last, points[-1][1][group])
        parts.append(
            Markup(
                '<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>'
                '<text x="{}" y="{}" fill="{}">{}</text>'
            ).format(path, colour, x + 6, y + 4 + 14 * number, colour, group)
        )
    return Markup("").join([*parts, Markup("</svg>")])


assert set(LINES) <= set(COLOURS.values())
