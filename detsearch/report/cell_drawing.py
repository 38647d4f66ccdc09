"""A cell as a picture: SVG, legible on light and dark.

Inputs, nodes and the output stand on a staircase, earlier ones above and to the left. An edge leaves its source
downwards and enters its node from the left, in the row that says what it does, so that no edge crosses a box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from markupsafe import Markup, escape

from detsearch.arch.cells import INPUTS, OPERATIONS, CellSpec

STEP: Final = 128
"""Pixels to the right from one box to the next."""
WIDTH: Final = 168
ROW: Final = 24
GAP: Final = 14
MARGIN: Final = 8
COLOURS: Final[Mapping[int, str]] = {1: "#8a8f98", 3: "#3b528b", 5: "#21918c", 7: "#35a35b", 9: "#b8860b"}
"""By receptive field; text says it as well."""


def cell_svg(cell: CellSpec, title: str, inputs: tuple[str, str]) -> Markup:
    """A drawing of `cell`, whose two inputs are called `inputs`; every edge with its operation and receptive field."""
    names = [*inputs, *(f"node {number}" for number in range(INPUTS, INPUTS + len(cell.nodes))), "output"]
    rows: list[list[tuple[int, str, str]]] = [[], []]  # source, colour, text
    for edges, fields in zip(cell.nodes, cell.receptive_fields(), strict=True):
        rows.append([(e.source, COLOURS[rf], f"{e.operation} · RF {rf}") for e, rf in zip(edges, fields, strict=True)])
    rows.append([(INPUTS + i, "", f"node {INPUTS + i}") for i in range(len(cell.nodes))])
    tops, y = [], MARGIN
    for box in rows:
        tops.append(y)
        y += ROW * (1 + len(box)) + GAP
    width, height = MARGIN * 2 + STEP * (len(rows) - 1) + WIDTH, y - GAP + MARGIN
    parts = [
        Markup(
            '<svg class="cell" role="img" viewBox="0 0 {} {}" width="{}" xmlns="http://www.w3.org/2000/svg">'
        ).format(width, height, width),
        Markup("<title>{}</title>").format(f"{title}: {cell}"),
    ]
    leaving = [0] * len(rows)
    for number, box in enumerate(rows):
        for at, (source, colour, _) in enumerate(box, 1):
            x = MARGIN + STEP * source + 16 + 16 * leaving[source]
            leaving[source] += 1
            bottom = tops[source] + ROW * (1 + len(rows[source]))
            end = tops[number] + ROW * at + ROW // 2
            parts.append(
                Markup('<path d="M{} {}V{}H{}" fill="none" stroke="{}" stroke-width="2"/>').format(
                    x, bottom, end, MARGIN + STEP * number, colour or "#8a8f98"
                )
            )
    for number, (name, box) in enumerate(zip(names, rows, strict=True)):
        left, top = MARGIN + STEP * number, tops[number]
        parts.append(
            Markup(
                '<rect x="{}" y="{}" width="{}" height="{}" rx="4" fill="none" stroke="currentColor" opacity="0.6"/>'
                '<text x="{}" y="{}" font-weight="600">{}</text>'
            ).format(left, top, WIDTH, ROW * (1 + len(box)), left + 8, top + ROW * 0.7, name)
        )
        for at, (source, colour, text) in enumerate(box, 1):
            middle = top + ROW * at + ROW * 0.7
            shown = text if number == len(rows) - 1 else f"{text} ← {source if source < INPUTS else names[source]}"
            parts.append(
                Markup('<circle cx="{}" cy="{}" r="4" fill="{}"/><text x="{}" y="{}">{}</text>').format(
                    left + 10, middle - 4, colour or "#8a8f98", left + 20, middle, shown
                )
            )
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def legend() -> Markup:
    """The colours of receptive fields."""
    fields = sorted({operation.receptive_field for operation in OPERATIONS.values()})
    return Markup(" ").join(
        Markup('<span class="chip"><i style="background:{}"></i>RF {}</span>').format(COLOURS[rf], escape(rf))
        for rf in fields
    )
