"""The report of a study as one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, get_args

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from detsearch.report.analysis import (
    HOW,
    SHARE_HEADERS,
    SHARES,
    correlation_rows,
    effect_headers,
    effect_rows,
    missing,
    share_rows,
    structures,
    together,
)
from detsearch.report.columns import (
    ABOUT_LIFT,
    LIFTED,
    Column,
    SortKey,
    costed_columns,
    failed_columns,
    figure,
    lift_cells,
    phrase,
    pruned_columns,
    result_columns,
    unfinished_columns,
)
from detsearch.report.plots import front_figure, growth_figure
from detsearch.report.scene import By, growth, scene
from detsearch.report.stages import stages_figure, stages_scene
from detsearch.report.view import (
    StudyView,
    count,
    duration,
    front_by_cost,
    in_state,
    provenance,
    state_counts,
    unfinished,
    untrained,
)
from detsearch.search.analysis import Analysis
from detsearch.search.factors import FACTORS
from detsearch.search.trial import Trial, TrialState

TEMPLATES = "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Trials laid out for the template: `rows` hold (text, sort key) in the order of `columns`."""

    anchor: str
    title: str
    note: str
    columns: list[Column]
    rows: list[list[tuple[str, str]]]


def html_report(view: StudyView, trials: Sequence[Trial]) -> str:
    """The page of a study. Everything from the study is escaped, and the page's own policy refuses any script but its
    two and any load from elsewhere, so that a hostile ledger can change what is read but not what is run."""
    plotly, own = get_plotlyjs().strip(), _part("page.js")
    environment = Environment(
        loader=PackageLoader("detsearch.report", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    best, picture = front_by_cost(trials, view.objectives), scene(view, trials)
    _, _, reference = growth(trials, view.objectives)
    stages = stages_scene(view, trials)
    return environment.get_template("page.html").render(
        view=view,
        summary=_summary(view, trials, best),
        front=_table("front", "Front", "", best, result_columns(best, view.objectives, view.test)),
        train=[
            (trial.number, view.train_commands[trial.number]) for trial in best if trial.number in view.train_commands
        ],
        lifted=LIFTED,
        lifts=[lift_cells(name, lift, view.objectives, view.test) for name, lift in view.lifts.items()],
        about_lift=ABOUT_LIFT,
        tables=_tables(view, trials),
        figures={
            "front": _plain(front_figure(view, trials)),
            "growth": _plain(growth_figure(view, trials)),
            "stages": None if stages is None else _plain(stages_figure(stages)),
        },
        keys={by: picture.key(by) for by in get_args(By)},
        stages=None if stages is None else stages.key(),
        analysis=None if view.analysis is None else _analysis(view.analysis),
        spread=picture.x.name == "latency_ms",
        single=len(view.objectives) == 1,
        reference=[phrase(o.name, v) for o, v in zip(view.objectives, reference, strict=bool(reference))],
        facts=provenance(view, trials),
        style=Markup(_part("page.css")),
        plotly=Markup(plotly),
        script=Markup(own),
        hashes=[_hash(plotly), _hash(own)],
    )


def _tables(view: StudyView, trials: Sequence[Trial]) -> list[_Table]:
    """Every trial once, by what became of it; of those that told a cost alone the ones that were not trained later."""
    complete, pruned = in_state(trials, TrialState.COMPLETE), in_state(trials, TrialState.PRUNED)
    failed, rest = in_state(trials, TrialState.FAILED), unfinished(trials)
    costed = untrained(trials)
    tables = [
        _table(
            "complete",
            "Complete",
            "Trained and evaluated.",
            complete,
            result_columns(complete, view.objectives, view.test),
        ),
        _table("costed", "Costed", "Measured, and never trained.", costed, costed_columns(costed)),
        _table("pruned", "Pruned", "Left out before any training.", pruned, pruned_columns(pruned)),
        _table("failed", "Failed", "Ended without a result.", failed, failed_columns(failed)),
        _table("unfinished", "Not finished", "Waiting, running or interrupted.", rest, unfinished_columns(rest)),
    ]
    return [table for table in tables if table.rows]


def _analysis(found: Analysis) -> dict[str, Any]:
    """What the template shows of an analysis."""
    shares = [(figure(one.figure).title, share_rows(one), together(one)) for one in found.importances if found.effects]
    return {
        "accuracy": figure(found.accuracy).title,
        "how": HOW,
        "factors": list(FACTORS.values()),
        "rows": correlation_rows(found),
        "structures": structures(found),
        "missing": missing(found),
        "about_shares": SHARES,
        "share_headers": SHARE_HEADERS,
        "shares": shares,
        "effect_headers": effect_headers(found),
        "effects": effect_rows(found),
    }


def _table(anchor: str, title: str, note: str, trials: Sequence[Trial], columns: list[Column]) -> _Table:
    rows = [[(column.text(trial), _sortable(column.key(trial))) for column in columns] for trial in trials]
    return _Table(anchor=anchor, title=title, note=note, columns=columns, rows=rows)


def _sortable(key: SortKey) -> str:
    """A sort key as an attribute; empty, which comes last, where there is no value."""
    return key if isinstance(key, str) else repr(key) if math.isfinite(key) else ""


def _summary(view: StudyView, trials: Sequence[Trial], best: Sequence[Trial]) -> list[str]:
    facts = [f"{count(len(trials), 'trial')}: {state_counts(trials)}." if trials else "No trials yet."]
    if best:
        reach = [
            ", ".join(phrase(objective.name, trial.values()[objective.name]) for objective in view.objectives[:2])
            for trial in best[:: max(1, len(best) - 1)]
        ]
        facts.append(f"Front of {len(best)}: {' to '.join(reach)}.")
    else:
        facts.append("No complete trial, so no front.")
    if view.created is not None and view.finished is not None:
        facts.append(f"Took {duration((view.finished - view.created).total_seconds())}.")
    return facts


def _plain(drawing: go.Figure) -> Any:
    """A figure as plain values; what is not finite becomes null."""
    return json.loads(drawing.to_json())


def _part(name: str) -> str:
    return files("detsearch.report").joinpath(TEMPLATES, name).read_text(encoding="utf-8").strip()


def _hash(script: str) -> str:
    """What a Content-Security-Policy knows a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
