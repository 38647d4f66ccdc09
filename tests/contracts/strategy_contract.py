"""What every search strategy must do; a subclass in tests/search says how one is made."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from detsearch.search.trial import SURVEY, Proposal, Strategy, Trial, TrialState, proposal_rng
from tests.search.toy import ToySpace, code, toy, trial

SPACE = ToySpace((6, 6))


def played(strategy: Strategy, count: int, *, seed: int = 0, workers: int = 1) -> list[Trial]:
    """The trials of a study of `count` proposals in which up to `workers` run at once and every fifth fails; of a
    survey all are costed."""
    trials: list[Trial] = []
    for number in range(count):
        running = trials[len(trials) - workers + 1 :] if workers > 1 else []
        history = trials[: len(trials) - len(running)]
        asleep = [replace(t, state=TrialState.RUNNING, metrics=None) for t in running]
        proposal = strategy.propose(history, asleep, proposal_rng(seed, number))
        if proposal is None:
            break
        state = TrialState.FAILED if number % 5 == 4 else TrialState.COMPLETE
        state = TrialState.COSTED if proposal.origin == SURVEY else state
        trials.append(trial(number, proposal.spec, state, origin=proposal.origin, parents=proposal.parents))
    return trials


class StrategyContract:
    """Subclasses define `source`, an expression that makes the strategy from `SPACE`, whether it draws, and of how many
    members it wants the cost first."""

    source: str
    imports: str
    draws = True
    surveyed = 0

    @pytest.fixture
    def strategy(self) -> Strategy:
        names: dict[str, object] = {"SPACE": SPACE}
        exec(self.imports, names)  # noqa: S102  the test's own text, which another process runs too
        made: Strategy = eval(self.source, names)  # noqa: S307
        return made

    @pytest.mark.parametrize("workers", [1, 3])
    def test_never_proposes_what_it_has_seen_and_ends_with_the_space(self, strategy: Strategy, workers: int) -> None:
        trials = played(strategy, self.surveyed + SPACE.size() + 1, workers=workers)
        assert len({t.spec for t in trials[: self.surveyed]}) == self.surveyed
        trials = trials[self.surveyed :]
        assert len({t.spec for t in trials}) == len(trials) == SPACE.size()
        assert all(SPACE.contains(t.spec) for t in trials)

    def test_what_runs_is_not_proposed_again(self, strategy: Strategy) -> None:
        every = [trial(n, spec, TrialState.RUNNING) for n, spec in enumerate(SPACE.all())]
        last = every.pop(17)
        assert self._spec(strategy.propose([], every, proposal_rng(0, 35))) == last.code
        assert strategy.propose([], [*every, last], proposal_rng(0, 36)) is None

    def test_equal_arguments_give_equal_proposals(self, strategy: Strategy) -> None:
        history = played(strategy, 20)
        first = strategy.propose(history, [], proposal_rng(5, 20))
        assert first == strategy.propose(history, [], proposal_rng(5, 20))
        others = {self._spec(strategy.propose(history, [], proposal_rng(seed, 20))) for seed in range(10)}
        assert (len(others) > 1) == self.draws, "the generator is used"

    def test_another_process_proposes_the_same(self, strategy: Strategy) -> None:
        script = f"""
from tests.contracts.strategy_contract import SPACE, played
{self.imports}
print([(t.code, t.origin, t.parents) for t in played({self.source}, 30, seed=3, workers=2)])
"""
        here = str([(t.code, t.origin, t.parents) for t in played(strategy, 30, seed=3, workers=2)])
        salt = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"  # sets of strings come in another order
        there = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=_environment(salt)
        )
        assert there.stdout.strip() == here

    def test_all_failed_is_no_dead_end(self, strategy: Strategy) -> None:
        history = [trial(n, toy(n, 0), TrialState.FAILED) for n in range(6)]
        assert self._spec(strategy.propose(history, [], proposal_rng(0, 6))) not in {t.code for t in history}

    def test_parents_are_recorded_trials(self, strategy: Strategy) -> None:
        for t in played(strategy, 30):
            assert all(0 <= parent < t.number for parent in t.parents)
            assert t.origin

    @staticmethod
    def _spec(proposal: Proposal | None) -> str:
        assert proposal is not None
        return code(proposal.spec)


def _environment(salt: str) -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": salt}
