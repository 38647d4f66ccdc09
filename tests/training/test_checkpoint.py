from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pickle
import resource
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.errors import CheckpointError, ResourceError
from detsearch.nn.structures import ImageBatch
from detsearch.search.trial import TrialInterrupted
from detsearch.training.checkpoint import (
    FORMAT,
    Checkpoint,
    CheckpointMeta,
    expect,
    is_checkpoint,
    load_detector,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)
from tests.training.toys import Loader, Toy, run, same, settings, stop_after, weights

NETWORK = "basicblock_8_1-21-2-1/fpn(levels=4-5,width=16)/retinanet(depth=1)/gn"
META = CheckpointMeta(
    network=NETWORK, input="64x64", classes=("a", "b"), settings={"lr": 0.1}, seed=3, epoch=2, step=9, seconds=1.5
)


def _detector() -> torch.nn.Module:
    torch.manual_seed(5)
    return build(parse_network(NETWORK), 2)


def _save(path: Path, **changes: Any) -> None:
    """A sound file with parts replaced; `meta` is merged."""
    meta, tensors = META.model_dump(mode="json"), {"a": torch.ones(2)}
    sound = {"format": FORMAT, "version": 1, "meta": meta, "weights": tensors, "state": None}
    if "meta" in changes and isinstance(changes["meta"], dict):
        changes["meta"] = {**meta, **changes["meta"]}
    torch.save({**sound, **changes}, path)


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"step": 3, "sums": {"loss": 0.5}, "tensor": torch.arange(3), "nothing": None, "list": [1, 2.5, "x", True]}
    saved = Checkpoint(META, {"w": torch.randn(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)}, state)
    save_checkpoint(tmp_path / "new" / "c.pt", saved)
    loaded = read_checkpoint(tmp_path / "new" / "c.pt")
    assert loaded.meta == META
    assert same(dict(loaded.weights), dict(saved.weights))
    assert loaded.state is not None
    assert torch.equal(loaded.state["tensor"], torch.arange(3))
    assert {k: v for k, v in loaded.state.items() if k != "tensor"} == {k: v for k, v in state.items() if k != "tensor"}
    assert os.listdir(tmp_path / "new") == ["c.pt"]


def test_a_detector_is_rebuilt_from_the_file_alone(tmp_path: Path) -> None:
    detector = _detector().eval()
    save_checkpoint(tmp_path / "c.pt", Checkpoint(META, detector.state_dict()))
    loaded, meta = load_detector(tmp_path / "c.pt")
    assert meta == META
    assert not loaded.training
    images = ImageBatch(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8), torch.tensor([[64, 50]]))
    a, b = detector.detect(images), loaded.detect(images)
    found, again = ({k: v for k, v in dataclasses.asdict(d).items() if v is not None} for d in (a, b))
    assert same(found, again)


def test_the_average_is_what_is_loaded_also_from_an_unfinished_training(tmp_path: Path) -> None:
    with pytest.raises(TrialInterrupted):
        run(tmp_path, Toy(), Loader(), settings(ema_decay=0.5, lr=1.0), should_stop=stop_after(5))
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pt")
    assert checkpoint.state is not None
    assert not same(dict(checkpoint.weights), dict(checkpoint.state["weights"]))
    trained = run(tmp_path, Toy(), Loader(), settings(ema_decay=0.5, lr=1.0))
    assert same(dict(read_checkpoint(tmp_path / "checkpoint.pt").weights), weights(trained.model))


def test_another_network_and_other_classes_are_refused_naming_both(tmp_path: Path) -> None:
    checkpoint, path = Checkpoint(META, {}), tmp_path / "c.pt"
    expect(checkpoint, path, network=NETWORK, classes=["a", "b"])
    with pytest.raises(
        CheckpointError, match=r"c\.pt: expected a checkpoint of resnet18/retinanet, got one of basicblock_8"
    ):
        expect(checkpoint, path, network="resnet18/retinanet", classes=["a", "b"])
    with pytest.raises(CheckpointError, match="expected the classes b, a, got a, b"):
        expect(checkpoint, path, network=NETWORK, classes=["b", "a"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if "conv.bias" not in k}, "expected the weight conv.bias"),
        (lambda w: {**w, "more": torch.ones(1)}, "only weights of the network, got more"),
        (lambda w: {**w, "conv.bias": torch.ones(9)}, r"conv.bias of shape \(4,\), got \(9,\)"),
        (lambda w: {**w, "conv.bias": torch.ones(1).expand(4, 10**12)}, "conv.bias of shape"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_copied(changed: Any, message: str) -> None:
    detector = Toy()
    before = weights(detector)
    other = changed({name: tensor + 1 for name, tensor in before.items()})
    with pytest.raises(CheckpointError, match=message):
        load_weights(detector, other, Path("c.pt"))
    assert same(before, weights(detector))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "another"}, "a detsearch checkpoint, got another kind of file"),
        ({"version": 2}, "detsearch checkpoint of format 1, got 2; update detsearch"),
        ({"meta": None}, "complete description"),
        ({"meta": {"network": 3}}, "network"),
        ({"meta": {"epoch": -1}}, "epoch"),
        ({"meta": {"classes": []}}, "classes"),
        ({"meta": {"unknown": 1}}, "unknown"),
        ({"weights": [torch.ones(1)]}, "tensors by name"),
        ({"weights": {"a": 3}}, "tensors by name"),
        ({"state": 3}, "a mapping under `state`"),
        ({"meta": {"network": "resnet18/nonsense"}}, "a network that can be built here, got resnet18/nonsense"),
    ],
)
def test_a_file_with_something_else_in_it(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "c.pt"
    _save(path, **changes)
    _refused(path, message)


def test_a_bare_state_dict_is_not_a_checkpoint(tmp_path: Path) -> None:
    torch.save(Toy().state_dict(), tmp_path / "c.pt")
    _refused(tmp_path / "c.pt", "another kind of file")
    torch.save(torch.ones(3), tmp_path / "c.pt")
    _refused(tmp_path / "c.pt", "another kind of file")


def _refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_detector(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


class _Code:
    """What an attacker would put into a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    _save(tmp_path / "c.pt", state={"x": _Code(victim)})
    _refused(tmp_path / "c.pt", "got other objects, which are not loaded")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"x": _Code(victim)}))
    _refused(tmp_path / "plain.pt", "expected (a detsearch checkpoint|tensors and plain values)")
    torch.save({"x": _Code(victim)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    _refused(tmp_path / "old.pt", "expected (a detsearch checkpoint|tensors and plain values)")
    assert not victim.exists()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    _refused(tmp_path / "absent.pt", "no such file")
    _refused(tmp_path, "a folder")
    (tmp_path / "empty.pt").write_bytes(b"")
    _refused(tmp_path / "empty.pt", "expected (a detsearch checkpoint|tensors and plain values)")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme", "hello")
    _refused(tmp_path / "other.pt", "damaged")


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_truncated_or_overwritten_file_is_refused_or_read_whole(tmp_path: Path, data: st.DataObject) -> None:
    """Cut anywhere: refused. A byte changed anywhere: refused, or read as a checkpoint; never another exception."""
    whole = tmp_path / "whole.pt"
    if not whole.exists():
        _save(whole)
    content = bytearray(whole.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    broken = tmp_path / "broken.pt"
    broken.write_bytes(content[:place])
    _refused(broken, "expected (a detsearch checkpoint|tensors and plain values)")
    content[place] ^= data.draw(st.integers(1, 255))
    broken.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        read_checkpoint(broken)


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, Checkpoint(META, {"w": torch.zeros(10)}))
    before = path.read_bytes()
    with (
        _files_of_at_most(100_000),
        pytest.raises(ResourceError, match=r"c\.pt: .*File too large; free space") as caught,
    ):
        save_checkpoint(path, Checkpoint(META, {"w": torch.zeros(100_000)}))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.pt"]


def test_a_disk_that_fills_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, Checkpoint(META, {"w": torch.zeros(10)}))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        save_checkpoint(path, Checkpoint(META, {"w": torch.ones(10)}))
    assert path.read_bytes() == before


def test_a_training_on_a_disk_that_fills_can_go_on_later(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", Toy(), Loader(), settings())
    with pytest.raises(TrialInterrupted):
        run(tmp_path / "full", Toy(), Loader(), settings(), should_stop=stop_after(4))
    with _files_of_at_most(1000), pytest.raises(ResourceError, match="File too large"):
        run(tmp_path / "full", Toy(), Loader(), settings())
    resumed = run(tmp_path / "full", Toy(), Loader(), settings())
    assert same(weights(plain.model), weights(resumed.model))


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrialInterrupted):
        run(tmp_path, Toy(), Loader(), settings(), should_stop=stop_after(2))
    path = tmp_path / "checkpoint.pt"
    sound = read_checkpoint(path)
    assert sound.state is not None
    for state, step in [
        (None, 2),
        (sound.state, 50),
        ({**sound.state, "optimiser": {}}, 2),
        ({**sound.state, "optimiser": {**sound.state["optimiser"], "param_groups": []}}, 2),
        ({k: v for k, v in sound.state.items() if k != "sums"}, 2),
    ]:
        save_checkpoint(path, Checkpoint(sound.meta.model_copy(update={"step": step}), sound.weights, state))
        with pytest.raises(CheckpointError, match="state of a training"):
            run(tmp_path, Toy(), Loader(), settings())


def test_only_what_says_so_is_a_checkpoint(tmp_path: Path) -> None:
    ours, other, damaged, pipe = (tmp_path / name for name in ("ours.pt", "other.pt", "damaged.pt", "pipe.pt"))
    _save(ours)
    torch.save({"weight": torch.zeros(1)}, other)
    damaged.write_bytes(ours.read_bytes()[:-200])
    os.mkfifo(pipe)
    assert is_checkpoint(ours)
    assert not any(map(is_checkpoint, (other, damaged, pipe, tmp_path, tmp_path / "absent.pt")))
