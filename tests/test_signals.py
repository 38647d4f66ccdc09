from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from detsearch.signals import on_signals

ASKING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _as_from_a_terminal() -> Iterator[None]:
    """What runs the tests may ignore some (nohup, a shell's background)."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ASKING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ASKING)
def test_what_asks_to_end_is_a_call_and_what_was_there_comes_back(number: signal.Signals) -> None:
    asked: list[int] = []
    before = signal.getsignal(number)
    with on_signals(lambda: asked.append(1)):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    assert len(asked) == 2
    assert signal.getsignal(number) is before


def test_a_hangup_that_is_ignored_stays_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_signals(lambda: pytest.fail("called")):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_signals_alone() -> None:
    before = [signal.getsignal(number) for number in ASKING]
    found: list[object] = []

    def work() -> None:
        with on_signals(lambda: None):
            found.extend(signal.getsignal(number) for number in ASKING)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == before
