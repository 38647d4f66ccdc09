from __future__ import annotations

from dataclasses import replace

import pytest

from detsearch.report.columns import lift_cells
from detsearch.report.view import lineage, provenance
from detsearch.search.inheritance import INHERITED, Heritage
from detsearch.search.lift import Lift
from detsearch.search.trial import Trial
from tests.report.fakes import OBJECTIVES, trial, view

TAKEN = Heritage(tensors=41, of=44, share=0.971, epochs=12)
WORDS = "41 of 44 tensors, 97 % of the parameters, trained for 12 epochs"


def heir(number: int, found: Heritage | None = TAKEN) -> Trial:
    one = trial(number, 0.4, 9.0, origin="mutation", parents=(3,))
    assert one.metrics is not None
    known = {} if found is None else {INHERITED: found.model_dump(mode="json")}
    return replace(one, inherits=3, metrics=replace(one.metrics, provenance=known))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (TAKEN, f", {WORDS}"),
        (Heritage(missing="checkpoint.pt: no such file"), ", nothing, so from scratch: checkpoint.pt: no such file"),
        (None, ""),
    ],
)
def test_the_origin_says_what_was_inherited(found: Heritage | None, words: str) -> None:
    assert lineage(heir(5, found)) == f"mutation of 3; inherited from trial 3{words}"
    running = replace(heir(5, found), metrics=None)
    assert lineage(running) == "mutation of 3; inherited from trial 3"
    assert lineage(replace(running, inherits=None)) == "mutation of 3"


def test_whoever_compares_is_told() -> None:
    trials = [trial(3, 0.3, 8.0), heir(4), heir(5), heir(6, Heritage(missing="gone"))]
    cautions = [value for label, value in provenance(view(trials), trials) if label == "Caution"]
    assert cautions == ["2 trials began with inherited weights, whose figures are not those of training from scratch"]
    assert "Caution" not in dict(provenance(view(trials), trials[:1]))
    lift = Lift(baseline=trials[0], trials=2, better=trials[1], cheaper=trials[3])
    _, _, baseline, better, cheaper = lift_cells("a structure", lift, OBJECTIVES)
    assert baseline.startswith("3: ")
    assert better.startswith("4, inherited: ")
    assert cheaper.startswith("6: ")
