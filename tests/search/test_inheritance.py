from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detsearch.arch.code import parse_detector
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import StudyError
from detsearch.search.evolution import Evolution
from detsearch.search.execution.base import Executor
from detsearch.search.execution.inline import InlineExecutor
from detsearch.search.execution.processes import ProcessExecutor
from detsearch.search.given import GivenFirst
from detsearch.search.halving import Halving
from detsearch.search.inheritance import INHERITED, Heritage, Inheriting, heritage_of, weights_epochs
from detsearch.search.ledger import Ledger, read_study
from detsearch.search.pruning import prune_reason
from detsearch.search.replay import replay
from detsearch.search.study import Ending, Search, run_study
from detsearch.search.surrogate import Surrogate
from detsearch.search.trial import Proposal, Strategy, Trial, TrialContext, TrialState, proposal_rng
from detsearch.types import Fidelity, Metrics
from tests.contracts.strategy_contract import SPACE, StrategyContract, played
from tests.search.codec import TOY_CODEC
from tests.search.toy import FIDELITY, OBJECTIVES, accuracy, code, cost, leq, metrics, toy, trial


class TestInheriting(StrategyContract):
    imports = """
from detsearch.search.evolution import Evolution
from detsearch.search.inheritance import Inheriting
from tests.search.toy import OBJECTIVES
"""
    source = "Inheriting(strategy=Evolution(space=SPACE, objectives=OBJECTIVES, initial=8))"


EVOLUTION = Evolution(space=SPACE, objectives=OBJECTIVES, initial=6)
SURROGATE = Surrogate(space=SPACE, objectives=OBJECTIVES, initial=6)


@pytest.mark.parametrize("strategy", [EVOLUTION, SURROGATE, GivenFirst(detectors=(toy(5, 5),), strategy=EVOLUTION)])
def test_the_strategy_proposes_as_it_does_alone(strategy: Strategy) -> None:
    trials = played(strategy, 16)
    heirs = []
    for number in range(len(trials)):
        alone = strategy.propose(trials[:number], [], proposal_rng(0, number))
        found = Inheriting(strategy=strategy).propose(trials[:number], [], proposal_rng(0, number))
        assert alone is not None
        assert found is not None
        assert replace(found, inherits=None) == alone
        assert (found.inherits is None) == (alone.origin in ("random", "given"))
        if found.inherits is not None:
            assert trials[found.inherits].state is TrialState.COMPLETE
            heirs.append(found)
        if alone.origin == "mutation":
            assert found.inherits == alone.parents[0]
    assert heirs


class Fixed:
    """A strategy that proposes one thing."""

    def __init__(self, proposal: Proposal | None) -> None:
        self.proposal = proposal

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        return self.proposal


def source(proposal: Proposal, history: list[Trial]) -> int | None:
    found = Inheriting(strategy=Fixed(proposal)).propose(history, [], proposal_rng(0, 0))
    assert found is not None
    return found.inherits


def test_a_mutation_inherits_from_the_longest_trained_trial_of_its_parent() -> None:
    child = Proposal(spec=toy(1, 2), origin="mutation", parents=(0,))
    history = [
        trial(0, toy(1, 1), fidelity=Fidelity(1)),
        trial(1, toy(1, 3), fidelity=Fidelity(9)),
        trial(2, toy(1, 1), fidelity=Fidelity(3), continues=0),
        trial(4, toy(1, 1), TrialState.FAILED, fidelity=Fidelity(9), continues=2),
    ]
    assert source(child, history) == 2
    assert source(child, history[:1]) == 0
    assert Inheriting(strategy=Fixed(None)).propose(history, [], proposal_rng(0, 0)) is None


def test_what_has_no_parent_inherits_from_the_nearest_network_at_any_input() -> None:
    slim = "basicblock_8_1-21-21-{}/fpn(levels=3-4-5,width=32)/retinanet(depth=1)/gn@{}"
    near = [("21", "96x96"), ("211", "64x64"), ("2", "96x96")]
    texts = ["resnet18/fpn(levels=3-4-5)/retinanet@96x96", *(slim.format(*values) for values in near)]
    history = [trial(number, toy(0, 0)) for number in range(4)]
    history = [replace(t, spec=parse_detector(text)) for t, text in zip(history, texts, strict=True)]
    wanted = parse_detector(slim.format("211", "96x96"))
    proposal = Proposal(spec=wanted, origin="model")
    assert source(proposal, history) == 2, "the same network"
    assert source(proposal, [*history[:2], history[3]]) == 1, "one block away; two blocks away; another one"
    assert source(proposal, history[:1]) == 0
    assert source(proposal, [trial(0, toy(0, 0), TrialState.FAILED)]) is None
    # Of equally near ones the nearest input, then the most epochs, then the latest.
    same = [replace(history[2], number=number) for number in range(2)]
    assert source(proposal, same) == 1
    same[0] = replace(same[0], fidelity=Fidelity(99))
    assert source(proposal, same) == 0
    same[1] = replace(same[1], spec=wanted)
    assert source(proposal, same) == 1


def evaluate_heir(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    """Leaves in its folder for how many epochs its weights were trained, as its heirs need it."""
    before = None if context.inherits is None else int((context.inherits / "epochs").read_text())
    (context.folder / "epochs").write_text(str((before or 0) + fidelity.epochs))
    found = {} if before is None else {INHERITED: Heritage(tensors=1, of=2, share=0.5, epochs=before).model_dump()}
    return Metrics(values={"ap": accuracy(spec)}, fidelity=fidelity, provenance=found)


SEED = 0
"""With it some of ten candidates inherit from one that has inherited itself."""


def study(
    folder: Path, *, evaluate: Any = evaluate_heir, executor: Executor | None = None, trials: int = 10, **changes: Any
) -> list[Trial]:
    settings = {"strategy": Inheriting(strategy=EVOLUTION), "fidelity": FIDELITY, "seed": SEED, **changes}
    search = Search(cost=cost, evaluate=evaluate, **settings)
    with closing(executor or InlineExecutor()) as used, Ledger(folder, {}, OBJECTIVES, codec=TOY_CODEC) as book:
        assert run_study(book, search, used, trials=trials) in (Ending.TRIALS, Ending.EXHAUSTED)
        return book.trials()


@pytest.mark.parametrize("make", [InlineExecutor, lambda: ProcessExecutor(("cpu", "cpu"))])
def test_heirs_are_told_the_folder_and_the_ledger_says_whose(tmp_path: Path, make: Callable[[], Executor]) -> None:
    trials = study(tmp_path, executor=make())
    assert [t.reason for t in trials if t.state is not TrialState.COMPLETE] == []
    heirs = [t for t in trials if t.inherits is not None]
    assert len(heirs) == 4
    for t in trials:
        assert (t.inherits is None) == (heritage_of(t) is None)
        assert (t.inherits is None) == (t.origin == "random")
        before = 0 if t.inherits is None else weights_epochs(trials[t.inherits])
        assert weights_epochs(t) == FIDELITY.epochs + before
    if make is InlineExecutor:
        assert max(map(weights_epochs, trials)) > 2 * FIDELITY.epochs, "an heir of an heir"
    read = read_study(tmp_path, TOY_CODEC).trials
    assert [t.inherits for t in read] == [t.inherits for t in trials]
    assert [t.to_json()["inherits"] for t in read] == [t.inherits for t in trials]


def told(trials: list[Trial]) -> list[tuple[Any, ...]]:
    return [(t.code, t.origin, t.parents, t.inherits, t.seed, t.state, weights_epochs(t)) for t in trials]


KILLED = """
import sys
from pathlib import Path
from tests.search.test_inheritance import evaluate_or_die, study
study(Path(sys.argv[1]), evaluate=evaluate_or_die)
"""


def evaluate_or_die(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    """Trials 7 and 9 kill their process when they are tried for the first time."""
    if context.folder.name in ("0007", "0009") and not (context.folder / "tried").exists():
        (context.folder / "tried").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate_heir(spec, fidelity, seed, context)


def test_a_killed_study_goes_on_with_the_same_parents(tmp_path: Path) -> None:
    whole = study(tmp_path / "whole")
    assert len(whole) == 10
    assert None not in (whole[7].inherits, whole[9].inherits)
    for trials in (1, 8, 10):
        parts = study(tmp_path / "parts", trials=trials)
    assert told(parts) == told(whole)
    for status in (-signal.SIGKILL, -signal.SIGKILL, 0):
        done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "killed"], check=False)
        assert done.returncode == status
    assert told(list(read_study(tmp_path / "killed", TOY_CODEC).trials)) == told(whole)


def evaluate_rung(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    if context.start is not None:
        (context.folder / "before").write_text(f"{context.start.name} {context.inherits and context.inherits.name}")
    return metrics(spec, fidelity)


def test_what_continues_an_heir_inherits_from_the_same(tmp_path: Path) -> None:
    halving = Halving(objectives=OBJECTIVES, rungs=(1, 3), eta=2)
    trials = study(tmp_path, evaluate=evaluate_rung, halving=halving, trials=12)
    continued = [t for t in trials if t.continues is not None]
    assert any(t.inherits is not None for t in continued)
    for t in continued:
        assert t.continues is not None
        assert t.inherits == trials[t.continues].inherits
        heir_of = None if t.inherits is None else f"{t.inherits:04d}"
        assert (tmp_path / "trials" / f"{t.number:04d}" / "before").read_text() == f"{t.continues:04d} {heir_of}"


def test_figures_of_heirs_are_not_replayed() -> None:
    search = Search(
        strategy=Inheriting(strategy=EVOLUTION), cost=cost, evaluate=evaluate_rung, fidelity=FIDELITY, seed=0
    )
    with pytest.raises(StudyError, match=r"a replayed study: expected trainings from scratch.*weights of trial \d"):
        replay(search, OBJECTIVES, name=code, trials=20)


def heir(number: int, spec: DetectorSpec, epochs: int, ap: float) -> Trial:
    """A trial that began with weights that were trained for so many epochs."""
    provenance = {INHERITED: Heritage(tensors=1, of=1, share=1.0, epochs=epochs).model_dump()}
    figures = Metrics(values={"ap": ap}, fidelity=FIDELITY, provenance=provenance)
    return trial(number, spec, inherits=0, metrics=figures)


def test_a_witness_must_have_begun_with_as_much_training() -> None:
    """toy(1, 1) is smaller than toy(2, 2), which was no better than toy(0, 0), which is cheaper."""

    def reason(larger: Trial, inherited: int) -> str | None:
        best = trial(1, toy(0, 0), metrics=Metrics(values={"ap": 0.9}, fidelity=FIDELITY))
        spec = toy(1, 1)
        return prune_reason(
            spec, cost(spec), [best, larger], leq=leq, objectives=OBJECTIVES, fidelity=FIDELITY, inherited=inherited
        )

    scratch = trial(2, toy(2, 2), metrics=Metrics(values={"ap": 0.5}, fidelity=FIDELITY))
    assert reason(scratch, 0) is not None
    assert reason(scratch, 3) is None
    assert reason(heir(2, toy(2, 2), 3, 0.5), 3) is not None
    assert reason(heir(2, toy(2, 2), 2, 0.5), 3) is None
    assert reason(heir(2, toy(2, 2), 9, 0.5), 0) is not None


def test_an_heir_is_pruned_by_those_with_as_much_training_only(tmp_path: Path) -> None:
    """The closed form is monotone, so that inheriting changes nothing but who may be a witness."""
    pruned = []
    for strategy in (EVOLUTION, Inheriting(strategy=EVOLUTION)):
        trials = study(tmp_path / str(len(pruned)), strategy=strategy, leq=leq, trials=12, evaluate=evaluate_flat)
        pruned.append(sum(t.state is TrialState.PRUNED for t in trials))
        for t in trials:
            if t.state is TrialState.PRUNED:
                larger = trials[int(str(t.reason).split()[1].rstrip(","))]
                wanted = 0 if t.inherits is None else weights_epochs(trials[t.inherits])
                assert weights_epochs(larger) - larger.fidelity.epochs >= wanted
    assert pruned[0] > 0


def evaluate_flat(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    """Of no use beyond a first depth of 2."""
    return replace(evaluate_heir(spec, fidelity, seed, context), values={"ap": min(0.5, accuracy(spec))})


@pytest.mark.parametrize(
    "found",
    [None, "yes", 3, [], {"tensors": -1}, {"share": 2.0}, {"share": float("nan")}, {"other": 1}, {"epochs": "x"}],
)
def test_what_is_no_heritage_says_nothing(found: Any) -> None:
    known = trial(1, toy(1, 1), inherits=0)
    assert heritage_of(known) is None
    changed = replace(metrics(toy(1, 1)), provenance={INHERITED: found})
    assert heritage_of(replace(known, metrics=changed)) is None
    assert weights_epochs(replace(known, metrics=changed)) == FIDELITY.epochs


def test_a_heritage_is_told_in_words() -> None:
    taken = Heritage(tensors=41, of=44, share=0.971, epochs=24)
    assert str(taken) == "41 of 44 tensors, 97 % of the parameters, trained for 24 epochs"
    assert str(Heritage(missing="no such file")) == "nothing, so from scratch: no such file"
