"""The trials of a study as Markdown (GitHub's flavour) and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from detsearch.report.analysis import markdown_analysis
from detsearch.report.columns import (
    ABOUT_LIFT,
    LIFTED,
    NUMBER,
    STATE,
    Column,
    costed_columns,
    failed_columns,
    figure_columns,
    lift_cells,
    pruned_columns,
    result_columns,
    unfinished_columns,
)
from detsearch.report.markdown import code_block, code_span, escape_markdown, table_row
from detsearch.report.view import (
    StudyView,
    count,
    front_by_cost,
    in_state,
    lineage,
    provenance,
    state_counts,
    steadiness,
    unfinished,
    untrained,
)
from detsearch.search.objective import Objective
from detsearch.search.pareto import front
from detsearch.search.trial import Trial, TrialState


def table_of(trials: Sequence[Trial], columns: Sequence[Column]) -> str:
    """A Markdown table of trials; numbers are right-aligned. Without trials only the header stands."""
    lines = [
        table_row([escape_markdown(column.header) for column in columns]),
        table_row(["---:" if column.kind == "number" else ":---" for column in columns]),
    ]
    for trial in trials:
        cells = [(column.kind, column.text(trial)) for column in columns]
        lines.append(table_row([code_span(text) if kind == "code" else escape_markdown(text) for kind, text in cells]))
    return "\n".join(lines)


def markdown_table(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    test: Mapping[int, Mapping[str, float]] | None = None,
) -> str:
    """A Markdown table of complete trials in the given order: figures, origin and code; `test` as in StudyView."""
    return table_of(trials, result_columns(trials, objectives, test))


def markdown_report(view: StudyView, trials: Sequence[Trial]) -> str:
    """The whole study in Markdown: the front with commands that train it, every trial by state with its reason, how it
    was measured, and how to run it again."""
    best = front_by_cost(trials, view.objectives)
    parts = [
        f"# {escape_markdown(view.name)}",
        f"{count(len(trials), 'trial')}: {state_counts(trials)}. Objectives: {', '.join(map(str, view.objectives))}"
        + (f"; limits: {', '.join(map(str, view.limits))}" if view.limits else "")
        + f"; seed {view.seed}.",
        "## Front",
        markdown_table(best, view.objectives, view.test) if best else "No complete trial yet, so there is no front.",
    ]
    commands = [view.train_commands[trial.number] for trial in best if trial.number in view.train_commands]
    if commands:
        parts += ["To train a detector of the front:", code_block("\n".join(commands), "sh")]
    if view.beside is not None:
        told = f"To see what {view.beside.names[0]} finds in images beside {view.beside.names[1]}:"
        parts += [escape_markdown(told), code_block("\n".join(view.beside.commands.values()), "sh")]
    if view.lifts:
        rows = [lift_cells(name, lift, view.objectives, view.test) for name, lift in view.lifts.items()]
        lines = [table_row(LIFTED), table_row([":---"] * len(LIFTED))]
        lines += [table_row([code_span(name), *map(escape_markdown, rest)]) for name, *rest in rows]
        parts += ["## Lift over the baselines", "\n".join(lines), escape_markdown(ABOUT_LIFT)]
    if view.analysis is not None and (analysis := markdown_analysis(view.analysis)):
        parts += ["## What goes with what", analysis]
    complete = in_state(trials, TrialState.COMPLETE)
    pruned, failed = in_state(trials, TrialState.PRUNED), in_state(trials, TrialState.FAILED)
    costed = untrained(trials)
    for title, group, columns in (
        ("Complete", complete, result_columns(complete, view.objectives, view.test)),
        ("Costed", costed, costed_columns(costed)),
        ("Pruned", pruned, pruned_columns(pruned)),
        ("Failed", failed, failed_columns(failed)),
        ("Not finished", unfinished(trials), unfinished_columns(unfinished(trials))),
    ):
        if group:
            parts += [f"## {title}", table_of(group, columns)]
    facts = [f"- {escape_markdown(label)}: {escape_markdown(value)}" for label, value in provenance(view, trials)]
    parts += ["## How it was measured", "\n".join(facts)]
    if view.commands:
        labelled = "\n".join(f"# {' '.join(label.split())}\n{command}" for label, command in view.commands.items())
        parts += ["## To reproduce", code_block(labelled, "sh")]
    if view.recipe:
        parts += ["Recipe:", code_block(view.recipe, "yaml")]
    return "\n\n".join(parts) + "\n"


def terminal_table(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Table:
    """All trials for `study show`, but those that only told a cost: state, figures, the code, under it the origin and
    the reason where there is one. A trial of the front is starred. Text is literal: nothing in it is read as rich
    markup."""
    starred = {trial.number for trial in front(trials, objectives)}
    names = list(dict.fromkeys([*(objective.name for objective in objectives), "latency_ms", "params"]))
    shown = [trial for trial in trials if trial.state is not TrialState.COSTED]
    columns = [NUMBER, STATE, *figure_columns(shown, names)]
    costed = len(trials) - len(shown)
    left_out = f"; {count(costed, 'trial')} costed alone, listed by --json" if costed else ""
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=Text(f"* on the front; {steadiness(shown)}{left_out}"),
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("")
    for column in columns:
        header = Text(column.header.replace(" (", "\n("))  # narrow columns leave room for the code
        table.add_column(header, justify="right" if column.kind == "number" else "left", no_wrap=True)
    table.add_column("Detector", overflow="fold")
    for trial in shown:
        what = Text(trial.code)
        what.append("\n" + "; ".join(filter(None, (lineage(trial), trial.reason))), style="not bold dim")
        table.add_row(
            Text("*" if trial.number in starred else ""),
            *(Text(column.text(trial)) for column in columns),
            what,
            style="bold" if trial.number in starred else "",
        )
    return table
