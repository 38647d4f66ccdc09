from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from detsearch.report.columns import ABOUT_LIFT, NONE, figure, figure_text, lift_cells, significant
from detsearch.report.html import html_report
from detsearch.report.markdown import code_block, code_span, escape_markdown
from detsearch.report.scene import scene
from detsearch.report.tables import markdown_report, markdown_table, terminal_table
from detsearch.report.view import UNSTEADY, steadiness
from detsearch.search.lift import Lift
from detsearch.search.objective import Objective
from detsearch.search.trial import TrialState
from tests.report.fakes import OBJECTIVES, study, trial, view

CODE = "resnet18/fpn(levels=3-4-5,width=64)/retinanet(depth=2)@320x256"
NASTY = "a|b `c` ``d`` [red]x[/red] <script>alert(1)</script> *s* _u_ \\ & é 細胞 | "


class _Cells(HTMLParser):
    """Rows of cell texts of the tables in a piece of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def rendered(markdown: str) -> list[list[str]]:
    parser = _Cells()
    parser.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))
    return parser.rows


def one_line(text: str) -> str:
    return " ".join(text.split())


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
def test_any_text_in_a_cell_renders_to_itself_and_adds_no_cell(text: str) -> None:
    rows = rendered(f"| a | b |\n| --- | --- |\n| {escape_markdown(text)} | {code_span(text)} |")
    assert len(rows) == 2
    assert len(rows[1]) == 2
    assert one_line(rows[1][0]) == one_line(text)
    assert one_line(rows[1][1]) == one_line(text) or "\\|" in text  # GitHub has no way to write that in code


def test_a_fence_is_longer_than_what_it_holds() -> None:
    text = "a: |\n  ```\n  ````\n"
    assert MarkdownIt().render(code_block(text, "yaml")).count("<pre>") == 1


def test_what_was_measured_once_counts_once() -> None:
    """A training that goes on, and one whose cost a survey measured, have that measurement."""
    costed = trial(0, None, 9.0, steady=False, state=TrialState.COSTED)
    trials = [costed, trial(1, 0.1, 9.0, steady=False, epochs=4), trial(2, 0.2, 9.0, steady=False), trial(3, 0.3, 7.0)]
    assert steadiness(trials).startswith("1 of 2 measurements steady")
    assert steadiness(trials[:0]) == "no latency measured"


def test_markdown_table_has_figures_units_and_test_results() -> None:
    trials = [trial(3, 0.41234, 12.345, iqr=0.51, steady=False, origin="mutation", parents=(1, 2))]
    rows = rendered(markdown_table(trials, OBJECTIVES, {3: {"ap": 0.4}}))
    row = dict(zip(*rows, strict=True))
    assert row["Trial"] == "3"
    assert row["AP"] == "0.412"
    assert row["Test AP"] == "0.400"
    assert row["Latency (ms)"] == f"12.3{UNSTEADY}"
    assert row["IQR (ms)"] == "0.5"
    assert row["Params (M)"] == "5.00"
    assert row["MACs (G)"] == "2.00"
    assert row["Origin"] == "mutation of 1, 2"
    assert row["Detector"] == trials[0].code


def test_pipes_and_markup_in_codes_and_reasons_stay_text() -> None:
    trials = [trial(0, 0.3, 5.0, shown=NASTY), trial(1, None, 6.0, state=TrialState.FAILED, shown=NASTY, reason=NASTY)]
    text = markdown_report(view(trials), trials)
    cells = [one_line(cell) for row in rendered(text) for cell in row]
    assert cells.count(one_line(NASTY)) == 4  # front, complete, failed and its reason
    widths = {len(row) for row in rendered(markdown_table(trials[:1], OBJECTIVES))}
    assert len(widths) == 1


def test_markdown_report_has_every_trial_reason_command_and_provenance() -> None:
    trials = study(32)
    known = view(trials)
    text = markdown_report(known, trials)
    rows = rendered(text)
    numbers = {row[0] for row in rows}
    cells = {one_line(cell) for row in rows for cell in row}
    assert {str(t.number) for t in trials} <= numbers
    assert {one_line(t.reason) for t in trials if t.reason} <= cells
    assert all(command in text for command in known.commands.values())
    assert known.recipe.strip() in text
    for fact in (
        "Example CPU",
        "Seed: 7",
        "2026-03-04 09:12 UTC",
        "bccd.yaml",
        "PyTorch",
        "measurements steady",
    ):
        assert fact in text


def test_a_lift_has_what_was_scored_on_test_and_a_caution() -> None:
    trials = [trial(0, 0.40, 10.0), trial(1, 0.44, 9.0), trial(2, 0.41, 8.0)]
    lift = Lift(baseline=trials[0], trials=2, better=trials[1], cheaper=trials[2])
    _, _, baseline, better, cheaper = lift_cells("a structure", lift, OBJECTIVES, {0: {"ap": 0.38}, 1: {"ap": 0.37}})
    assert baseline == "0: AP 0.400, Latency 10.0 ms; test AP 0.380"
    assert better == "1: AP 0.440, Latency 9.00 ms (+10 %); test AP 0.370"
    assert cheaper == "2: AP 0.410, Latency 8.00 ms (-20 %)", "not on the front, so not scored"
    known = view(trials, lifts={"a structure": lift}, test={1: {"ap": 0.37}})
    assert "; test AP 0.370" in markdown_report(known, trials)
    assert one_line(ABOUT_LIFT) in one_line(markdown_report(known, trials).replace("\\", ""))
    assert "; test AP 0.370" in html_report(known, trials)
    assert ABOUT_LIFT in html_report(known, trials)
    assert ABOUT_LIFT not in html_report(view(trials), trials)


def test_without_trials_the_report_says_so() -> None:
    assert "no front" in markdown_report(view([]), [])


def test_terminal_table_takes_brackets_literally_and_stars_the_front() -> None:
    trials = [
        trial(0, 0.3, 5.0, shown="[bold]x[/bold]"),
        trial(1, 0.2, 6.0),
        trial(2, state=TrialState.FAILED, reason="[/nope] loss"),
    ]
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(trials, OBJECTIVES))
    text = console.export_text()
    assert "[bold]x[/bold]" in text
    assert "[/nope] loss" in text
    starred = [line for line in text.splitlines() if line.startswith(" *") and "complete" in line]
    assert len(starred) == 1
    assert "0.300" in starred[0]


def test_of_what_was_costed_alone_there_is_what_was_not_trained_later() -> None:
    other = "resnet18/fpn(levels=3-4-5,width=32)/retinanet(depth=2)@320x256"
    costed = [
        trial(n, None, 7.0, state=TrialState.COSTED, code=c, origin="survey") for n, c in enumerate([CODE, other])
    ]
    trials = [*costed, trial(2, 0.3, 7.0, code=CODE)]
    text = markdown_report(view(trials), trials)
    assert "3 trials: 1 complete, 2 costed" in text
    (rows,) = re.findall(r"## Costed\n\n(.*?)\n\n", text, flags=re.DOTALL)
    assert other in rows
    assert CODE not in rows
    assert "Measured, and never trained." in html_report(view(trials), trials)
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(trials, OBJECTIVES))
    shown = console.export_text()
    assert "2 trials costed alone" in shown
    assert "width=32" not in shown
    assert [t.number for t in scene(view(trials), trials).others] == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (4.816, "4.82"),
        (12.34, "12.3"),
        (126.6, "127"),
        (0.4501, "0.450"),
        (math.nan, NONE),
        (math.inf, NONE),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_figures_are_shown_in_the_unit_of_their_header() -> None:
    assert (figure("macs").header, figure_text("macs", 2.5e9)) == ("MACs (G)", "2.50")
    assert (figure("ap_small").header, figure_text("ap_small", 0.1234)) == ("AP small", "0.123")
    assert (figure("my_figure").header, figure_text("my_figure", 3.0)) == ("my figure", "3.00")
    assert figure_text("ap", None) == NONE


def test_an_objective_of_someone_elses_has_a_column() -> None:
    rows = rendered(markdown_table([trial(0, 0.3, 5.0)], (*OBJECTIVES, Objective("train_seconds", False))))
    assert "Training (min)" in rows[0]
