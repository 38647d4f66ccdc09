"""A study whose coordinator is killed with SIGKILL again and again ends with exactly what was asked for."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from detsearch.search.ledger import read_study
from detsearch.search.trial import TrialState
from tests.search.codec import TOY_CODEC

KILLS, TRIALS, EPOCHS = 12, 16, 40  # more work than all kills leave time for, also on a fast machine

LAUNCHER = f"""
import os, sys
from contextlib import closing
from pathlib import Path
from detsearch.search.evolution import Evolution
from detsearch.search.execution.processes import ProcessExecutor
from detsearch.search.ledger import Ledger
from detsearch.search.study import Search, run_study
from detsearch.types import Fidelity
from tests.search.toy import *
from tests.search.codec import TOY_CODEC

def tell(event):
    if event.kind == "progress":
        print("epoch", flush=True)

def coordinate():
    search = Search(
        strategy=Evolution(space=ToySpace((8, 8)), objectives=OBJECTIVES, initial=6),
        cost=cost, evaluate=evaluate_slowly, fidelity=Fidelity({EPOCHS}), seed=1, leq=leq,
    )
    with Ledger(Path(sys.argv[1]), {{"space": "toy"}}, OBJECTIVES, codec=TOY_CODEC) as ledger:
        print("open", flush=True)
        with closing(ProcessExecutor(("cpu",) * 3)) as executor:
            print(run_study(ledger, search, executor, trials={TRIALS}, on_event=tell), flush=True)

for line in sys.stdin:
    pid = os.fork()  # what was imported above need not be imported for each kill
    if pid == 0:
        coordinate()
        os._exit(0)
    print(pid, flush=True)
    print("ended", os.waitpid(pid, 0)[1], flush=True)
"""


class Launcher:
    """Starts coordinators of one study, each in a process of its own, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.line())

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def until(self, start: str) -> str:
        while not (line := self.line()).startswith(start):
            assert line, "the launcher has ended"
        return line


def test_sigkill_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(20)
    folder = tmp_path / "study"
    launcher = Launcher(folder)
    for kill in range(KILLS):
        pid = launcher.start()
        if kill > 2:  # the first ones hit the creation of the study, the others any moment of the loop
            launcher.until("epoch" if kill % 2 else "open")  # half of them for certain while trials run
        time.sleep(rng.uniform(0.0, 0.6 if kill % 2 or kill < 3 else 1.2))
        os.kill(pid, signal.SIGKILL)
        assert launcher.until("ended") == "ended 9", "it was at work when it was killed"
        if (folder / "ledger.db").exists():
            read_study(folder, TOY_CODEC)  # whole at any moment
    launcher.start()
    launcher.until("all trials are done")
    launcher.process.communicate()

    trials = read_study(folder, TOY_CODEC).trials
    counted = [t for t in trials if t.state is not TrialState.PRUNED]
    assert Counter(t.state for t in counted) == {TrialState.COMPLETE: TRIALS}
    assert [t.number for t in trials] == list(range(len(trials)))
    assert len({t.code for t in trials}) == len(trials)
    assert sum(t.attempts for t in counted) > TRIALS, "something was really interrupted"
    for t in counted:
        lines = (folder / "trials" / f"{t.number:04d}" / "epochs").read_text().splitlines()
        epochs = [int(line.split()[0]) for line in lines]
        # Work goes on where it was saved: each epoch is there, and one is repeated only by a start that followed a
        # kill between its log line and its save.
        assert sorted(set(epochs)) == list(range(EPOCHS))
        assert epochs == sorted(epochs)
        assert len(epochs) - EPOCHS <= t.attempts - 1
    assert not [t for t in counted if t.metrics is None or t.cost is None]
