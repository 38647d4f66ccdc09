from __future__ import annotations

import io

from rich.console import Console

from detsearch.training.progress import BarProgress, LineProgress, progress_on


def test_plain_lines_with_the_time_left_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    progress = progress_on(Console(file=out, width=40))
    assert isinstance(progress, LineProgress)
    now = [100.0]
    progress = LineProgress(Console(file=out, width=40), clock=lambda: now[0])
    with progress as shown:
        shown.start(20, 100)  # a resumed run: its first steps took no time now
        shown.say("before the first step")
        now[0] = 110.0
        shown.advance(30)
        shown.say("loss 0.5 [bold]kept as it is[/bold] " + "x" * 50)
    lines = out.getvalue().splitlines()
    assert lines[0] == "step 20/100, left unknown: before the first step"
    assert lines[1] == "step 30/100, left 0:01:10: loss 0.5 [bold]kept as it is[/bold] " + "x" * 50
    assert len(lines) == 2


def test_a_bar_on_a_terminal() -> None:
    out = io.StringIO()
    progress = progress_on(Console(file=out, force_terminal=True, width=120))
    assert isinstance(progress, BarProgress)
    with progress as shown:
        shown.start(0, 10)
        shown.advance(10)
        shown.say("loss 0.5 [x]")
    assert "10/10" in out.getvalue()
    assert "loss 0.5 [x]" in out.getvalue()
