"""An analysis of a search as tables: cells for the page, Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from detsearch.intervals import Interval
from detsearch.report.columns import NONE, figure, figure_text
from detsearch.report.markdown import escape_markdown, table_row
from detsearch.search.analysis import ALL, Analysis, Group
from detsearch.search.correlation import Correlation
from detsearch.search.factors import FACTORS
from detsearch.search.importance import Importance, Share

HOW: Final = (
    "Spearman's rank correlation with its 95 % interval (Fisher's, with Bonett and Wright's variance), bold where that "
    "leaves zero out; of many cells some are bold by chance. The trials of a search are no independent draws, so "
    "intervals are rather too narrow, and what goes with accuracy need not be its cause."
)
SHARES: Final = (
    "Share of the variance that a choice explains, in percent, with its 95 % interval (jackknife): alone, by the means "
    "of its values; beyond, what the sum of all choices' effects loses without it. Choices that went together in this "
    "search share what they have alone. Adjusted for the number of values: about 0, or below, is nothing."
)
TINT: Final = {True: (33, 102, 172), False: (217, 95, 2)}
"""Of positive and of negative correlations: blue and orange, which the colour-blind tell apart."""
STRONGEST: Final = 0.5
"""Opacity of the tint at a correlation of 1 or -1, on which text stays legible."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure with its interval, both as text; `decided`: bold; `rgba` of the background: red, green and blue from 0
    to 255, opacity from 0 to 1."""

    text: str
    interval: str = ""
    decided: bool = False
    rgba: tuple[int, int, int, float] = (0, 0, 0, 0.0)


def group_name(group: Group, numbers: Sequence[str]) -> str:
    """``All trials``, ``Front``, and those of a structure by its number among `numbers`, texts of structures."""
    if group.structure is None:
        return "All trials" if group.kind == ALL else "Front"
    number = numbers.index(group.structure) + 1
    return f"Structure {number}" if group.kind == ALL else f"Structure {number}, front"


def structures(found: Analysis) -> list[str]:
    """The structures that groups are about, in order."""
    return list(dict.fromkeys(group.structure for group in found.groups if group.structure is not None))


def correlation_rows(found: Analysis) -> list[tuple[str, int, list[Cell]]]:
    """By group its name, the number of trials, and a cell for each of the `FACTORS`."""
    numbers = structures(found)
    return [
        (group_name(group, numbers), len(group.trials), [_cell(group.correlations[name]) for name in FACTORS])
        for group in found.groups
    ]


def _cell(correlation: Correlation) -> Cell:
    one = correlation.spearman
    if one is None:
        return Cell(NONE)
    interval = "" if one.low is None or one.high is None else f"{one.low:.2f} to {one.high:.2f}"
    tint = (*TINT[one.value > 0], round(STRONGEST * abs(one.value), 2))
    return Cell(f"{one.value:.2f}", interval, one.decided, tint)


def missing(found: Analysis) -> list[str]:
    """Why correlations have no figure, a line for each reason and group; which trials have no code."""
    numbers, lines = structures(found), []
    for group in found.groups:
        reasons: dict[str, list[str]] = {}
        for name, correlation in group.correlations.items():
            if correlation.reason is not None:
                reasons.setdefault(correlation.reason, []).append(FACTORS[name][0])
        for reason, names in reasons.items():
            which = "no figure" if len(names) == len(FACTORS) else f"no figure for {', '.join(names)}"
            lines.append(f"{group_name(group, numbers)}: {which}: {reason}")
    if found.without_code:
        named = "; ".join(f"{number}: {reason}" for number, reason in list(found.without_code.items())[:4])
        more = "" if len(found.without_code) <= 4 else "; ..."
        lines.append(f"Left out, {len(found.without_code)} without a block code: {named}{more}")
    return lines


SHARE_HEADERS: Final = ("Choice", "Values", "Alone", "Beyond the others")


def share_rows(importance: Importance) -> list[tuple[str, ...]]:
    """The choices that vary, those that explain most alone first, in the columns of `SHARE_HEADERS`."""

    def order(item: tuple[str, Share]) -> float:
        return -item[1].alone.mean if item[1].alone is not None else float("inf")

    return [
        (name, str(share.values), share.reason or percent(share.alone), percent(share.beyond))
        for name, share in sorted(importance.shares.items(), key=order)
        if share.values > 1
    ]


def together(importance: Importance) -> str:
    """What all choices explain, as a sentence; the constant ones named."""
    constant = [name for name, share in importance.shares.items() if share.values < 2]
    said = "" if importance.together is None else f"All together: {percent(importance.together)}. "
    return f"{said}{importance.trials} trials." + (f" The same in all: {', '.join(constant)}." if constant else "")


def percent(share: Interval | None) -> str:
    """``62 ± 11``; NONE where there is no figure."""
    if share is None:
        return NONE
    return f"{round(100 * share.mean)}" + ("" if share.half is None else f" ± {round(100 * share.half)}")


def effect_headers(found: Analysis) -> list[str]:
    return ["Choice", "Value", "Trials", *(f"Mean {figure(i.figure).header}" for i in found.importances)]


def effect_rows(found: Analysis) -> list[list[str]]:
    """Every value of every choice, in the columns of `effect_headers`."""
    return [
        [name, effect.value, str(effect.trials), *(_mean(figure, mean) for figure, mean in effect.means.items())]
        for name, rows in found.effects.items()
        for effect in rows
    ]


def _mean(name: str, mean: Interval) -> str:
    text = figure_text(name, mean.mean)
    return text if mean.half is None else f"{text} ± {figure_text(name, mean.half)}"


def markdown_analysis(found: Analysis) -> str:
    """The whole analysis in Markdown."""
    accuracy = figure(found.accuracy).title
    parts = []
    if found.groups:
        parts += [f"### Correlation with {accuracy}", HOW]
        rows = [[name, str(count), *map(_marked, cells)] for name, count, cells in correlation_rows(found)]
        parts.append(_table(["Trials of", "Number", *(title for title, _ in FACTORS.values())], rows, text=1))
        parts.append("\n".join(f"- {title}: {about}" for title, about in FACTORS.values()))
        named = [f"Structure {number}: {name}" for number, name in enumerate(structures(found), 1)]
        if lines := [*named, *missing(found)]:
            parts.append("\n".join(f"- {escape_markdown(line)}" for line in lines))
    elif found.without_code:
        parts.append("\n".join(f"- {escape_markdown(line)}" for line in missing(found)))
    if found.effects:
        for importance in found.importances:
            parts += [f"### What explains {figure(importance.figure).title}"]
            parts += [SHARES] if importance is found.importances[0] else []
            parts += [_table(SHARE_HEADERS, share_rows(importance), text=1), escape_markdown(together(importance))]
        parts += ["### Means by value", _table(effect_headers(found), effect_rows(found), text=2)]
    return "\n\n".join(parts)


def _marked(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.decided else cell.text
    return f"{text} ({cell.interval})" if cell.interval else text


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, text: int) -> str:
    """A Markdown table whose first `text` columns are anybody's words, the others figures of ours."""
    rule = [":---"] * text + ["---:"] * (len(headers) - text)
    cells = [[*map(escape_markdown, row[:text]), *row[text:]] for row in rows]
    return "\n".join(map(table_row, [[*map(escape_markdown, headers)], rule, *cells]))
