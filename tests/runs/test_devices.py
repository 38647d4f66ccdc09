"""Trainings on several devices: recipes, resuming, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detsearch.arch.code import parse_detector
from detsearch.build import build
from detsearch.errors import RecipeError, ResourceError
from detsearch.runs import device as devices
from detsearch.runs.device import several, threads_each
from detsearch.runs.execution import make_executor
from detsearch.runs.fit import with_batch
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import SearchRecipe, TrainRecipe
from detsearch.runs.train import train_recipe
from detsearch.search.execution.processes import ProcessExecutor
from detsearch.search.trial import TrialContext, TrialInterrupted
from detsearch.training import batch
from detsearch.training import log as logs
from detsearch.training.batch import objects
from detsearch.training.checkpoint import read_checkpoint
from tests.runs.conftest import TINY


def recipe(data_file: Path, *settings: str) -> TrainRecipe:
    given = ["training.epochs=3", "training.batch=4", "training.warmup_steps=1", "training.eval_epochs=1", *settings]
    return load_recipe(TrainRecipe, None, given, {"detector": TINY, "data.file": str(data_file), "device": "cpu"})


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(read_checkpoint(folder / "checkpoint.pt").weights)


class Patience:
    """Asks to stop once so many epochs are reported."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def report(self, epoch: int, epochs: int, message: str) -> None:
        self.left -= 1

    def should_stop(self) -> bool:
        return self.left <= 0


def test_two_devices_train_as_one_stop_and_go_on(
    tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 images in batches of 4, so two steps an epoch and two images a process. Interrupted, resumed: bit for bit what
    two devices do without a pause; and what one does, up to the rounding of float32."""
    monkeypatch.setattr(devices, "cpus", lambda: 2)
    both = recipe(data_file, "devices=2")
    whole = train_recipe(both, tmp_path / "whole")
    assert (whole["devices"], whole["steps"], whole["batch"]) == (2, 6, 4)
    lines = logs.read(tmp_path / "whole" / "log.jsonl")
    assert [line["images"] for line in lines] == [8, 8, 8]
    assert [("metrics" in line) for line in lines] == [True, True, False]

    stopping = Patience(1)
    within = TrialContext(folder=tmp_path, report=stopping.report, should_stop=stopping.should_stop)
    with pytest.raises(TrialInterrupted):
        train_recipe(both, tmp_path / "parts", within=within)
    assert 2 <= read_checkpoint(tmp_path / "parts" / "checkpoint.pt").meta.step < 6
    assert train_recipe(both, tmp_path / "parts")["steps"] == 6
    found, expected = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(found[name], value) for name, value in expected.items())

    train_recipe(recipe(data_file), tmp_path / "one")
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(expected[name], value, rtol=1e-3, atol=1e-4)
    losses = [line["loss"] for line in logs.read(tmp_path / "one" / "log.jsonl")]
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-3)


@pytest.mark.slow
def test_the_batch_that_fits_is_the_same_on_all(
    tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cpus", lambda: 2)
    found = train_recipe(recipe(data_file, "devices=2", "training.batch=auto", "training.epochs=1"), tmp_path / "run")
    assert found["batch"] == 8, "all images there are: 4 for each"
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt").meta.settings["batch"] == 8


def test_more_devices_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cpus", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert several("cpu", 1) == ("cpu",)
    assert several("cpu", 2) == ("cpu", "cpu")
    assert several("cuda:1", 3) == ("cuda:1", "cuda:2", "cuda:3")
    with pytest.raises(ResourceError, match="devices: expected at most 2, the CPUs that may be used here, got 3"):
        several("cpu", 3)
    with pytest.raises(ResourceError, match="devices: expected at most 3, the GPUs from cuda:1 on, got 4"):
        several("cuda:1", 4)


def test_refusals_come_before_time_is_spent(tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cpus", lambda: 2)
    with pytest.raises(ResourceError, match="devices: expected at most 2"):
        train_recipe(recipe(data_file, "devices=4"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for wrong, text in (
        (["devices=3"], "training.batch: a multiple of 3, which is devices, not 4"),
        (["devices=2", "training.accumulate=4"], "a multiple of 8, which is devices times training.accumulate"),
        (["devices=0"], "devices"),
    ):
        with pytest.raises(RecipeError, match=text):
            recipe(data_file, *wrong)


def search(**changes: Any) -> SearchRecipe:
    raw = {"data": {"file": "synthetic"}, **changes}
    return load_recipe(SearchRecipe, None, [], raw)


def test_gpus_of_a_trial_are_the_devices_of_its_training() -> None:
    assert search().devices == 1
    assert search(**{"execution.gpus": 0.5}).devices == 1
    paper = search(**{"execution.executor": "ray", "execution.gpus": 8})
    assert paper.devices == 8
    assert SearchRecipe.model_validate(paper.model_dump(mode="json")) == paper
    assert search(devices=2).execution.gpus == 0, "processes on CPUs"
    for wrong in ({"execution.gpus": 1.5}, {"execution.gpus": 4, "devices": 2}, {"execution.gpus": 0.5, "devices": 2}):
        with pytest.raises(RecipeError, match=r"execution\.gpus"):
            search(**wrong)


def test_trials_side_by_side_have_devices_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    execution = search(**{"execution.workers": 2}).execution
    for count, slots in ((1, ["cuda:0", "cuda:0"]), (2, ["cuda:0", "cuda:2"])):
        executor = make_executor(execution, "cuda:0", count)
        assert isinstance(executor, ProcessExecutor)
        assert sorted(executor._free) == slots
        executor.close()
    with pytest.raises(ResourceError, match=r"devices times execution\.workers: expected at most 4"):
        make_executor(execution, "cuda:0", 3)


def test_a_trial_takes_its_share_of_the_memory(
    tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, settings = parse_detector(TINY), recipe(data_file, "training.batch=auto", "training.base_batch=256").training
    detector = build(spec.network, 3)
    memory = 3 * 2**22
    monkeypatch.setattr(batch, "memory", lambda: (memory, memory))

    def batch_of(**context: int) -> int:
        here = TrialContext(folder=tmp_path, **context)  # type: ignore[arg-type]
        draw = objects(3, masks=False)
        return with_batch(settings, detector, spec.input, draw, images=256, context=here).batch

    alone, shared = batch_of(), batch_of(sharing=4)
    assert shared < alone < 256
    memory //= 4
    assert batch_of() == shared


@pytest.mark.parametrize(
    ("cores", "processes", "variable", "threads"),
    [
        (8, 2, None, 4),
        (8, 3, None, 2),
        (2, 4, None, 1),
        (8, 2, "1", 1),
        (8, 2, "3", 3),
        (8, 2, "16", 4),
        (8, 1, "6,2", 6),
        (8, 2, "0", 4),
        (8, 2, "many", 4),
        (8, 2, "", 4),
    ],
)
def test_processes_share_the_cores_and_heed_the_limit_on_threads(
    cores: int, processes: int, variable: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cpus", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert threads_each(processes) == threads
