"""On a cluster of two nodes, made on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from detsearch.errors import ResourceError, StudyError
from detsearch.search.evolution import Evolution
from detsearch.search.execution.base import Broken, Done, Interrupted
from detsearch.search.ledger import Ledger, read_study
from detsearch.search.study import Ending, Search, StudyEvent, run_study
from detsearch.search.trial import TrialContext, TrialState
from detsearch.types import Fidelity
from tests.contracts.executor_contract import ExecutorContract, add, collect, ended, until_stopped
from tests.search.codec import TOY_CODEC
from tests.search.toy import OBJECTIVES, ToySpace, cost, evaluate_slowly

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402

from detsearch.search.execution.ray_cluster import RayExecutor  # noqa: E402

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that runs nothing; tests add the nodes that they want."""
    folder = tempfile.mkdtemp(prefix="ray")  # not pytest's: a socket's path must be short
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80_000_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        made = Cluster(initialize_head=True, head_node_args=head)
        add_node(made)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def add_node(cluster: Any) -> Any:
    node = cluster.add_node(num_cpus=2, object_store_memory=80_000_000)
    cluster.wait_for_nodes()
    return node


def placed(executor: RayExecutor, slots: int = 1) -> RayExecutor:
    """The executor, once so many of its hosts have their place."""
    end = time.monotonic() + 60
    while executor.slots() < slots:
        assert time.monotonic() < end, "no place"
        time.sleep(0.05)
    return executor


def leave(context: TrialContext) -> None:
    os._exit(7)


def gpus_in_sight(context: TrialContext) -> tuple[str, list[str], int]:
    return context.device, os.environ["CUDA_VISIBLE_DEVICES"].split(","), context.sharing


def shared_by(context: TrialContext) -> int:
    return context.sharing


@pytest.mark.usefixtures("cluster")
class TestRayExecutor(ExecutorContract):
    def make(self) -> RayExecutor:
        return placed(RayExecutor(1))

    def test_a_task_that_crashes_ends_alone(self, executor: RayExecutor, tmp_path: Path) -> None:
        executor.submit(0, tmp_path / "0", leave, ())
        assert collect(executor, ended(1)) == [Broken(0, "the process exited with status 7 without a result")]
        executor.submit(1, tmp_path / "1", add, (1, 1))
        assert collect(executor, ended(1)) == [Done(1, 2)]

    def test_killed_tasks_can_be_run_again(self, executor: RayExecutor, tmp_path: Path) -> None:
        executor.submit(0, tmp_path, until_stopped, ())
        while not (tmp_path / "begun").exists():
            executor.poll(lambda _: None, 0.05)
        executor.kill()
        assert collect(executor, ended(1))[-1] == Interrupted(0)
        assert not (tmp_path / "saved").exists()

    def test_what_cannot_be_imported_is_refused(self, executor: RayExecutor, tmp_path: Path) -> None:
        with pytest.raises(StudyError, match="another process can import"):
            executor.submit(0, tmp_path, lambda context: None, ())


JOINING = """
import sys
from contextlib import closing
from detsearch.search.execution.ray_cluster import RayExecutor
with closing(RayExecutor(1, address=sys.argv[1])) as executor:
    print(executor.running())
"""


def test_a_process_joins_by_the_address(cluster: Any) -> None:
    """In one of its own: this one belongs to the cluster already."""
    done = subprocess.run(
        [sys.executable, "-c", JOINING, cluster.address], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "frozenset()"), done.stderr


@pytest.mark.usefixtures("cluster")
def test_the_time_of_a_task_is_limited(tmp_path: Path) -> None:
    with closing(placed(RayExecutor(1, time_limit=0.5))) as executor:
        executor.submit(0, tmp_path, until_stopped, ())
        assert collect(executor, ended(1))[-1] == Broken(0, "time limit of 0.5 s exceeded")


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"gpus": 1}, r"room for 1 trials of 1 CPUs and 1 GPUs each, got 0 on "),
        ({"gpus": 0.5}, r"room for 1 trials of 1 CPUs and 0\.5 GPUs each"),
        ({"cpus": 3}, r"room for 1 trials of 3 CPUs each"),
        ({"slots": 3}, r"room for 3 trials of 1 CPUs each, got 2 on "),
    ],
)
def test_absent_resources_are_refused_at_once(wanted: dict[str, Any], message: str) -> None:
    began = time.monotonic()
    with pytest.raises(ResourceError, match=message):
        RayExecutor(**wanted)
    assert time.monotonic() - began < 10


def test_all_gpus_of_a_trial_are_one_nodes(cluster: Any, tmp_path: Path) -> None:
    """Eight of one node are seen as eight; of a share one; eight of two nodes with four each are not to be had."""
    nodes = [cluster.add_node(num_cpus=2, num_gpus=gpus, object_store_memory=80_000_000) for gpus in (4, 4)]
    cluster.wait_for_nodes()
    try:
        with pytest.raises(ResourceError, match="room for 1 trials of 1 CPUs and 8 GPUs each, got 0"):
            RayExecutor(1, gpus=8)
        nodes.append(cluster.add_node(num_cpus=2, num_gpus=8, object_store_memory=80_000_000))
        cluster.wait_for_nodes()
        for slots, gpus, seen, sharing in ((1, 8, 8, 1), (2, 0.5, 1, 2), (3, 0.4, 1, 2)):
            with closing(placed(RayExecutor(slots, gpus=gpus))) as executor:
                executor.submit(0, tmp_path / str(gpus), gpus_in_sight, ())
                (done,) = collect(executor, ended(1))
                assert isinstance(done, Done)
                device, ids, told = done.value
                assert (device, len(set(ids)), told) == ("cuda:0", seen, sharing)
    finally:
        for node in nodes:
            cluster.remove_node(node)


@pytest.mark.usefixtures("cluster")
def test_trials_know_how_many_share_a_nodes_memory(tmp_path: Path) -> None:
    for slots, cpus, sharing in ((2, 1, 2), (1, 1, 1), (1, 2, 1)):
        with closing(placed(RayExecutor(slots, cpus=cpus))) as executor:
            executor.submit(0, tmp_path / f"{slots}-{cpus}", shared_by, ())
            assert collect(executor, ended(1)) == [Done(0, sharing)]


def searched(folder: Path, images: int, **training: Any) -> Any:
    """The recipe of a search of two structures with real trainings, of which each takes a whole node."""
    # Not above: hosts import this module for the other tests' tasks, which need no torch.
    from detsearch.runs.recipe import load_recipe
    from detsearch.runs.settings import SearchRecipe
    from tests.runs.conftest import DATA, TINY

    splits = {**DATA["splits"], "train": {"images": images, "seed": 1}}
    (folder / "data.yaml").write_text(yaml.safe_dump({**DATA, "splits": splits}))
    raw = {
        "data": {"file": str(folder / "data.yaml"), "test": "test"},
        "space": {"detectors": [TINY, TINY.replace("basicblock_4", "basicblock_8")]},
        "training": {"base_batch": 4, "warmup_steps": 1, **training},
        "search": {"strategy": "all"},
        "execution": {"executor": "ray", "workers": 2, "cpus": 2},
        "latency": {"warmup": 1, "runs": 3, "seconds": 0.01},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw))
    return load_recipe(SearchRecipe, folder / "recipe.yaml")


def test_a_search_of_structures_on_two_nodes(cluster: Any, tmp_path: Path) -> None:
    """From a recipe, with real trainings; the same command has nothing left to do."""
    from detsearch.runs.search import search_structure

    recipe, out = searched(tmp_path, 8, epochs=2, batch="auto"), tmp_path / "study"
    second = add_node(cluster)
    try:
        for _ in range(2):
            assert search_structure(recipe, out).trained == 2
    finally:
        cluster.remove_node(second)
    study = read_study(out)
    assert study.identity["device_name"] == "of a cluster"
    for trial in study.trials:
        assert (trial.state, trial.attempts) == (TrialState.COMPLETE, 1), trial.reason
        assert {"ap", "latency_ms", "macs"} <= trial.values().keys()
        assert trial.metrics is not None
        said = trial.metrics.provenance
        assert (said["device"], said["threads"], said["batch"], said["split"]) == ("cpu", 2, 4, "val")
        assert (out / "trials" / f"{trial.number:04d}" / "checkpoint.pt").exists()
    assert (out / "test.json").exists()


def test_a_node_that_dies_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    """Two slots on two nodes, of which one is killed on the way, and with it what ran there."""
    second = add_node(cluster)
    strategy = Evolution(space=ToySpace((6, 3)), objectives=OBJECTIVES, initial=4)
    search = Search(strategy=strategy, cost=cost, evaluate=evaluate_slowly, fidelity=Fidelity(30), seed=1)
    killed = []

    def on_event(event: StudyEvent) -> None:
        if event.kind == "progress" and event.epoch >= 5 and not killed:
            killed.append(event)
            cluster.remove_node(second, allow_graceful=False)

    with (
        closing(placed(RayExecutor(2, cpus=2), 2)) as executor,
        Ledger(tmp_path, {"space": "toy"}, OBJECTIVES, codec=TOY_CODEC) as book,
    ):
        ending = run_study(book, search, executor, trials=6, on_event=on_event)
        trials = book.trials()
    assert killed
    assert ending is Ending.TRIALS
    assert [str(trial.state) for trial in trials] == ["complete"] * len(trials)
    assert len(trials) == 6
    assert sorted(trial.attempts for trial in trials) == [1] * 5 + [2], "what ran on the dead node, and nothing else"
    for trial in trials:
        worked = (tmp_path / "trials" / f"{trial.number:04d}" / "epochs").read_text().splitlines()
        epochs = [int(line.split()[0]) for line in worked]
        assert sorted(set(epochs)) == list(range(30)), "every epoch"
        assert len(epochs) <= 31, "at most the one that was not saved twice"


def test_a_node_that_dies_loses_no_training(cluster: Any, tmp_path: Path) -> None:
    """Two real trainings, on a node each, of which one is killed: what ran there goes on from its checkpoint on the
    other node, and counts once."""
    from detsearch.runs.search import search_structure

    epochs, steps = 30, 4
    recipe, out = searched(tmp_path, 4 * steps, epochs=epochs, batch=4), tmp_path / "study"
    second = add_node(cluster)
    before: dict[int, int] = {}
    after: dict[int, list[int]] = {}
    killed = False

    def on_event(event: StudyEvent) -> None:
        nonlocal killed
        if event.kind != "progress" or event.trial is None:
            return
        if killed:
            after.setdefault(event.trial.number, []).append(event.epoch)
            return
        before[event.trial.number] = event.epoch
        if len(before) == 2 and min(before.values()) >= 2:
            killed = True
            cluster.remove_node(second, allow_graceful=False)

    try:
        finished = search_structure(recipe, out, on_event=on_event)
    finally:
        if not killed:
            cluster.remove_node(second)
    assert killed
    assert finished.ending is Ending.EXHAUSTED
    assert finished.trained == 2
    trials = read_study(out).trials
    assert [str(trial.state) for trial in trials] == ["complete", "complete"]
    assert sorted(trial.attempts for trial in trials) == [1, 2], "what ran on the dead node, and nothing else"
    (lost,) = (trial.number for trial in trials if trial.attempts == 2)
    assert min(after[lost]) >= before[lost], "from its checkpoint on"
    for trial in trials:
        assert trial.metrics is not None
        assert trial.metrics.provenance["steps"] == epochs * steps
        log = (out / "trials" / f"{trial.number:04d}" / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in log] == list(range(1, epochs + 1)), "every epoch, once"
