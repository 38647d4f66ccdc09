"""A line an event."""

from __future__ import annotations

import pytest

from detsearch.cli.progress import print_event
from detsearch.search.study import StudyEvent
from detsearch.search.trial import Trial, TrialState
from tests.report.fakes import trial

CODE = "resnet18/fpn(levels=3-4-5,width=64)/retinanet(depth=2)@320x256"


@pytest.mark.parametrize(
    ("known", "line"),
    [
        (trial(3, None, 7.0, state=TrialState.COSTED, code=CODE), f"trial 3 costed: {CODE} [7.0 ms]"),
        (
            trial(3, None, 7.0, state=TrialState.PRUNED, reason="macs=9 is above the limit macs<=8"),
            "trial 3 pruned: macs=9 is above the limit macs<=8 [7.0 ms]",
        ),
        (
            trial(3, None, 7.0, state=TrialState.RUNNING, code=CODE, origin="model"),
            f"trial 3 started (model): {CODE} [7.0 ms]",
        ),
        (trial(3, 0.25, 7.0), "trial 3 complete: ap 0.250, ap50 0.400 [7.0 ms]"),
    ],
    ids=lambda value: str(value.state) if isinstance(value, Trial) else "",
)
def test_what_became_of_a_trial_is_a_line(known: Trial, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_event(StudyEvent("trial", known))
    assert capsys.readouterr().err.strip() == line
