from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from timm.layers import BatchNormAct2d

from detsearch.arch.code import parse_detector
from detsearch.build import build, build_classifier
from detsearch.errors import ResourceError
from detsearch.nn.sync_norms import share_statistics
from detsearch.training import batch
from detsearch.training.batch import SHARE, Draw, fitting_batch, labels, memory, objects
from detsearch.training.settings import ClassifierSettings, TrainingSettings
from detsearch.types import InputSize

MASKED = "2fc(width=16,mask=mask(width=8,depth=1))"
SPEC = parse_detector(f"basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/rpn(keep=20)/{MASKED}@64x64")
AUTO = TrainingSettings.model_validate({"batch": "auto"})
MASKS = objects(2, masks=True)


def found(
    free: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    total: int | None = None,
    most: int = 64,
    size: InputSize = SPEC.input,
    **beside: int,
) -> int:
    monkeypatch.setattr(batch, "memory", lambda: (free, total or free))
    torch.manual_seed(0)
    return fitting_batch(build(SPEC.network, 2), AUTO, size, "cpu", most=most, draw=MASKS, **beside)


def test_auto_is_a_batch_to_be_found() -> None:
    assert AUTO.finds_batch
    assert AUTO.model_dump()["batch"] == AUTO.deciding()["batch"] == "auto"
    assert TrainingSettings.model_validate(AUTO.model_dump()) == AUTO
    schema = TrainingSettings.model_json_schema()["properties"]["batch"]
    assert (schema["default"], {"const": "auto"} in schema["anyOf"], "type" in schema) == (16, True, False)
    known = AUTO.with_batch(8)
    assert (known.finds_batch, known.loader_batch, known.scaled_lr) == (False, 8, known.lr * 8 / known.base_batch)
    assert not TrainingSettings().finds_batch
    for wrong in ({"batch": 0}, {"batch": -1}, {"batch": "all"}, {"batch": "auto", "accumulate": 2}):
        with pytest.raises(ValidationError):
            TrainingSettings.model_validate(wrong)


def test_the_batch_doubles_with_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [found(3 * 2**power, monkeypatch) for power in range(20, 29)]
    assert batches == sorted(batches)
    assert set(batches) <= {1, 2, 4, 8, 16, 32, 64}
    assert batches[-1] == 64
    assert len(set(batches)) > 3
    assert all(more <= 2 * some for some, more in itertools.pairwise(batches))
    middle = 3 * 2 ** (20 + batches.index(8))
    assert found(middle, monkeypatch, size=InputSize(128, 128)) < 8
    assert found(middle, monkeypatch) == 8, "always the same"


def test_no_more_than_what_is_wanted_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(2**40, monkeypatch, most=12) == 8
    assert found(2**40, monkeypatch, most=1) == 1
    with pytest.raises(ResourceError, match="memory for one image of 64x64"):
        found(2**10, monkeypatch)


def test_trials_that_share_a_device_get_equal_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins when the first has taken its part: alone each would claim what is free at its time."""
    total = 3 * 2**25
    taken = int(SHARE["cpu"] * total / 2)
    first = found(total, monkeypatch, total=total, sharing=2)
    second = found(total - taken, monkeypatch, total=total, sharing=2)
    assert first == second == found(total // 2, monkeypatch)
    assert first < found(total, monkeypatch, total=total)
    assert found(total // 8, monkeypatch, total=total, sharing=2) < first, "never more than is free"
    assert found(total, monkeypatch, total=total, sharing=2, beside=2) == found(total // 4, monkeypatch)


def test_a_batch_for_a_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "memory", lambda: (2**40, 2**40))
    classifier = build_classifier(SPEC.network.backbone, 5)
    assert fitting_batch(classifier, ClassifierSettings(), InputSize(40, 40), "cpu", most=32, draw=labels(5)) == 32
    draw: Draw = labels(5)
    drawn = draw(64, InputSize(40, 40), torch.device("cpu"))
    assert isinstance(drawn, torch.Tensor)
    assert set(drawn.tolist()) <= set(range(5))


def test_trying_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = build(SPEC.network, 2)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    state = torch.get_rng_state()
    monkeypatch.setattr(batch, "memory", lambda: (2**40, 2**40))
    assert fitting_batch(detector, AUTO, SPEC.input, "cpu", most=4, draw=MASKS) == 4
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())
    assert all(p.grad is None for p in detector.parameters())


def test_memory_of_a_control_group_counts(tmp_path: Path) -> None:
    free, total = memory(tmp_path)
    assert 0 < free < total
    (tmp_path / "memory.current").write_text("400\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory(tmp_path)[0] > 10**6
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory(tmp_path) == (600, 1000)


def test_batch_norms_are_synchronised_in_a_distributed_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = build(SPEC.network, 2)
    names = list(detector.state_dict())

    def kinds() -> set[str]:
        return {type(module).__name__ for module in detector.modules() if "BatchNorm" in type(module).__name__}

    share_statistics(detector)
    assert kinds() == {"BatchNorm2d"}
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for processes, kind in ((1, "BatchNorm2d"), (2, "SharedBatchNorm2d")):
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda processes=processes: processes)
        share_statistics(detector)
        assert kinds() == {kind}
    assert list(detector.state_dict()) == names


def test_norms_with_an_activation_are_synchronised_on_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    network = torch.nn.Sequential(BatchNormAct2d(4))
    with pytest.raises(ResourceError, match=r"training\.sync_bn: expected GPUs, got a CPU"):
        share_statistics(network)
    if torch.cuda.is_available():
        share_statistics(network.cuda())
        assert isinstance(network[0], torch.nn.SyncBatchNorm)
        assert isinstance(network[0].act, torch.nn.ReLU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_tried_until_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = build(SPEC.network, 2)
    assert fitting_batch(detector, AUTO, SPEC.input, "cuda:0", most=16, draw=MASKS) == 16
    free = torch.cuda.mem_get_info(0)[0]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free // 2000, free))
    small = fitting_batch(detector, AUTO, SPEC.input, "cuda:0", most=1024, draw=MASKS)
    assert 1 <= small < 1024
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free // 1000))
    assert fitting_batch(detector, AUTO, SPEC.input, "cuda:0", most=1024, draw=MASKS, sharing=2) == small
    assert next(detector.parameters()).device.type == "cpu"
