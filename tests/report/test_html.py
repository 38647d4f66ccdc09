from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import time
from html.parser import HTMLParser

import pytest

from detsearch.report.analysis import correlation_rows
from detsearch.report.html import html_report
from detsearch.report.scene import scene
from detsearch.search.analysis import analyse
from detsearch.search.objective import Objective
from detsearch.search.trial import Trial, TrialState
from tests.report.fakes import OBJECTIVES, study, trial, view

VOID = {"meta", "br", "wbr", "img", "input", "link", "hr"}
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'& é 細胞 ]]> <!--"


class Page(HTMLParser):
    """A page as its elements, checked to be well nested; scripts by type, and the text a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, list[str]] = {}
        self.kind = ""
        self.cells: list[str] = []
        self.read = ""
        self.feed(text)
        self.close()
        assert self.stack == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self.stack.append(tag)
        if tag == "script":
            self.kind = dict(attrs).get("type") or "javascript"
            self.scripts.setdefault(self.kind, []).append("")
        if tag == "td":
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "script" in self.stack:
            self.scripts[self.kind][-1] += data
        elif "style" not in self.stack:
            self.read += data
            if "td" in self.stack:
                self.cells[-1] += data


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    return study(32)


@pytest.fixture(scope="module")
def text(trials: list[Trial]) -> str:
    return html_report(view(trials), trials)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_trial_with_its_code_and_reason_is_there(page: Page, trials: list[Trial]) -> None:
    cells = set(page.cells)
    assert {t.code for t in trials} <= cells
    assert {t.reason for t in trials if t.reason} <= cells
    assert {str(t.number) for t in trials} <= cells


def test_commands_recipe_and_provenance_are_there(page: Page, trials: list[Trial]) -> None:
    known = view(trials)
    for part in (
        *known.commands.values(),
        known.recipe.strip(),
        known.folder,
        "Example CPU 3.1 GHz",
        "2160 candidates",
    ):
        assert part in page.read
    for part in ("ap:max", "latency_ms<=60", "2026-03-04 11:21 UTC", "measurements steady", "0.1.0", "train 205"):
        assert part in page.read
    shown = re.findall(r"Trial (\d+)", page.read)
    assert all(known.train_commands[int(number)] in page.read for number in shown)
    assert len(shown) > 3


def test_hovering_tells_what_a_trial_is(page: Page, trials: list[Trial]) -> None:
    figure = json.loads(page.scripts["application/json"][0])
    hovers = [text for trace in figure["data"] for text in trace.get("hovertext", [])]
    drawn = [t for t in trials if t.state is not TrialState.COMPLETE or "ap" in t.values()]
    assert len(hovers) == len(drawn)
    one = next(t for t in trials if t.state is TrialState.COMPLETE and t.parents)
    hover = next(text for text in hovers if text.startswith(f"<b>Trial {one.number}</b>"))
    for part in ("AP ", "Latency ", "IQR", "Params", "MACs", "12 epochs", f"mutation of {one.parents[0]}"):
        assert part in hover


def test_points_can_be_coloured_by_backbone_too(page: Page, trials: list[Trial]) -> None:
    choices = [attributes for tag, attributes in page.elements if tag == "input"]
    assert [(a["type"], a["value"]) for a in choices] == [("radio", "input"), ("radio", "backbone")]
    assert ["checked" in a for a in choices] == [True, False]
    figure = json.loads(page.scripts["application/json"][0])
    coloured = [trace for trace in figure["data"] if "meta" in trace]
    picture = scene(view(trials), trials)
    for trace, points in zip(coloured, (picture.dominated, picture.front), strict=True):
        assert trace["marker"]["color"] == trace["meta"]["colours"]["input"]
        assert trace["meta"]["colours"]["backbone"] == [picture.colour(t, "backbone") for t in points]
    keys = [a for tag, a in page.elements if tag == "div" and "data-by" in a]
    assert [(a["data-by"], "hidden" in a) for a in keys] == [("input", False), ("backbone", True)]


def test_the_analysis_is_on_the_page(trials: list[Trial]) -> None:
    found = analyse(trials, OBJECTIVES)
    page = Page(html_report(view(trials, analysis=found), trials))
    for part in ("Correlation with AP", "What explains AP", "What explains Latency", "Means by value", "neck levels"):
        assert part in page.read
    assert found is not None
    (name, count, cells), *_ = correlation_rows(found)
    assert name in page.read
    assert str(count) in page.cells
    assert cells[0].text in page.read
    assert cells[0].interval in page.read


def test_nothing_is_loaded_from_anywhere(page: Page, text: str) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "a")
        assert not {"src", "href", "srcset", "action", "formaction"} & attributes.keys()
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_the_two_scripts_of_the_page_and_no_other(page: Page) -> None:
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]
    scripts = page.scripts["javascript"]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"sha256-([^']+)'", policy) == hashes
    assert len(scripts) == 2
    assert sum("plotly.js v" in script[:200] for script in scripts) == 1, "plotly is embedded once"
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_the_chart_cannot_be_sent_to_a_server(page: Page) -> None:
    assert "modeBarButtons:" in page.scripts["javascript"][1]
    assert "sendChartToCloud" not in page.scripts["javascript"][1]


def test_hostile_text_is_shown_and_does_nothing() -> None:
    trials = [
        trial(0, 0.3, 5.0, shown=NASTY, origin=NASTY),
        trial(1, None, 6.0, state=TrialState.FAILED, shown=NASTY, reason=NASTY),
        trial(2, state=TrialState.RUNNING, shown=NASTY),
    ]
    known = view(
        trials, name=NASTY, folder=NASTY, recipe=NASTY, device=NASTY, protocol=NASTY, commands={NASTY: NASTY},
        train_commands={0: NASTY}, data={NASTY: NASTY}, versions={NASTY: NASTY},
    )  # fmt: skip
    page = Page(html_report(known, trials))
    assert len(page.scripts["javascript"]) == 2
    assert page.cells.count(NASTY) == 4 + 2 + 1  # codes in four tables, origins in two, a reason
    assert page.read.count(NASTY) >= 12
    figure = json.loads(page.scripts["application/json"][0])
    hovers = " ".join(text for trace in figure["data"] for text in trace.get("hovertext", []))
    assert "<script" not in hovers
    assert "<img" not in hovers
    assert "&lt;script&gt;alert(1)" in hovers.replace("<br>", "")


@pytest.mark.parametrize(
    "cases",
    [
        [],
        [trial(0, 0.3, 5.0)],
        [trial(i, None, 3.0 * i + 1, state=TrialState.FAILED, reason="boom") for i in range(3)],
        [trial(0, math.nan, 5.0), trial(1, 0.3, math.nan), trial(2, 0.4, 9.0, iqr=math.nan), trial(3, math.inf, 1.0)],
        [trial(0, 0.3, 5.0), trial(1, 0.3, 5.0)],
        [trial(0, 0.0, 5.0), trial(1, 0.0, 6.0)],
        [trial(0, state=TrialState.WAITING), trial(1, state=TrialState.PREEMPTED)],
        [trial(0, 0.3)],
    ],
)
@pytest.mark.parametrize("objectives", [OBJECTIVES, OBJECTIVES[:1], (*OBJECTIVES, Objective("params", False))])
def test_degenerate_studies_have_a_page(cases: list[Trial], objectives: tuple[Objective, ...]) -> None:
    page = Page(html_report(view(cases, objectives=objectives, name="Zellen 細胞"), cases))
    assert "Zellen 細胞" in page.read
    assert "NaN" not in "".join(page.scripts.get("application/json", [])), "JSON has no such number"
    assert {str(t.number) for t in cases} <= set(page.cells)


def test_further_objectives_are_columns(trials: list[Trial]) -> None:
    objectives = (*OBJECTIVES, Objective("memory_access", False))
    assert "Memory access (M elements)" in Page(html_report(view(trials, objectives=objectives), trials)).read


def test_a_thousand_trials_make_a_page_of_six_megabytes_in_seconds() -> None:
    trials = study(1000)
    known = view(trials)
    start = time.perf_counter()
    text = html_report(known, trials)
    assert len(text.encode()) < 7e6  # 4.8 of them are plotly
    assert time.perf_counter() - start < 20  # a second or two, on an idle core
