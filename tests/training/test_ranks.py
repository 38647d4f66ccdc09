"""Several processes that train together make the steps of one."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from detsearch.errors import RecipeError, TrainingError
from detsearch.nn.ops.counts import of_batch
from detsearch.runs import ranks as together
from detsearch.runs.ranks import ECHOES, on_all
from detsearch.search.execution.base import Broken
from detsearch.search.trial import TrialContext
from detsearch.training.ranks import Ranks, joined
from tests.training.sharing import NETWORKS, die, told_to_share, train_all, trained

CPUS = ("cpu", "cpu")


def silent(epoch: int, epochs: int, message: str) -> None:
    pass


def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    """Each with half of every batch: the same weights and statistics, up to the rounding of float64, whatever the
    losses are divided by, also where one half has no object, and with a batch in parts."""
    shared = on_all(train_all, (), CPUS, TrialContext(folder=tmp_path, threads=2), tell=silent)
    for kind in NETWORKS:
        alone = trained(kind, Ranks(("cpu",)))
        assert shared[kind].keys() == alone.keys()
        for name, values in alone.items():
            np.testing.assert_allclose(shared[kind][name], values, rtol=1e-7, atol=1e-9, err_msg=f"{kind}: {name}")


def test_processes_of_a_trial_are_not_trials_that_share_its_device(tmp_path: Path) -> None:
    assert on_all(told_to_share, (), CPUS, TrialContext(folder=tmp_path, sharing=3), tell=silent) == 3


@pytest.mark.parametrize("how", ["killed", "refused"])
def test_the_end_of_one_is_the_end_of_all(how: str, tmp_path: Path) -> None:
    """At once, with the reason, not with what the other one says of it."""
    begun = time.monotonic()
    error, text = {
        "killed": (TrainingError, "process 2 of 2 .* ended by SIGKILL"),
        "refused": (RecipeError, "batch: expected another one, got this one"),
    }[how]
    with pytest.raises(error, match=text):
        on_all(die, (how,), CPUS, TrialContext(folder=tmp_path), tell=silent)
    assert time.monotonic() - begun < 60


@pytest.mark.slow
def test_a_defect_in_one_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="process 2 of 2 that train together: RuntimeError: a defect of ours"):
        on_all(die, ("broken",), CPUS, TrialContext(folder=tmp_path), tell=silent)
    assert "a defect of ours" in (tmp_path / "ranks" / "1" / "log.txt").read_text()


def test_the_reason_is_no_echo() -> None:
    first, second = Broken(0, "RuntimeError: [gloo/tcp/pair.cc] Connection closed by peer"), Broken(1, "out of memory")
    assert all(echo == echo.lower() for echo in ECHOES)
    assert str(together._reason([first, second], 2)).endswith("process 2 of 2 that train together: out of memory")
    assert "Connection closed" in str(together._reason([first], 2))


def test_one_alone_asks_nobody(tmp_path: Path) -> None:
    alone = Ranks(("cpu",))
    with joined(alone, tmp_path / "nobody"):
        assert not torch.distributed.is_initialized()
    values = torch.tensor([1.0, 2.0])
    assert (len(alone), alone.first, alone.share) == (1, True, (0, 1))
    assert alone.mean(values) is values
    assert (alone.any(False), alone.any(True), alone.least(3)) == (False, True, 3)
    network = torch.nn.Linear(1, 1)
    assert alone.parallel(network) is network
    assert not list(tmp_path.iterdir())


def test_a_count_is_at_least_one() -> None:
    device = torch.device("cpu")
    assert [of_batch(number, device) for number in (0, 1, 5)] == [1, 1, 5]
    assert [int(of_batch(torch.tensor(number), device)) for number in (0, 1, 5)] == [1, 1, 5]
