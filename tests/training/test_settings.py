from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from detsearch.errors import ResourceError
from detsearch.training.settings import ClassifierSettings, TrainingSettings


def test_every_field_says_what_it_is() -> None:
    for kind in (TrainingSettings, ClassifierSettings):
        for name, field in kind.model_json_schema()["properties"].items():
            assert field.get("description"), name


def test_a_classifier_has_the_settings_of_a_detector_and_its_own() -> None:
    usual = ClassifierSettings()
    assert (usual.scaled_lr, usual.batch, usual.smoothing, usual.momentum) == (0.1, 256, 0.0, 0.9)
    automatic = ClassifierSettings.model_validate({"batch": "auto", "smoothing": 0.1})
    assert automatic.finds_batch
    assert automatic.with_batch(64).scaled_lr == pytest.approx(0.025)
    assert automatic.deciding()["smoothing"] == 0.1
    for wrong in ({"batch": 0}, {"smoothing": 1}, {"accumulate": 3}):
        with pytest.raises(ValidationError):
            ClassifierSettings.model_validate(wrong)


def test_the_learning_rate_follows_the_batch() -> None:
    assert TrainingSettings(lr=0.01, batch=16).scaled_lr == pytest.approx(0.01)
    assert TrainingSettings(lr=0.01, batch=4).scaled_lr == pytest.approx(0.0025)
    assert TrainingSettings(lr=0.02, batch=8, base_batch=32).scaled_lr == pytest.approx(0.005)


def test_the_loader_delivers_the_parts() -> None:
    assert TrainingSettings(batch=16, accumulate=4).loader_batch == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch": 0}, {"lr": 0}, {"lr": float("nan")}, {"momentum": 1.0}, {"weight_decay": -1e-4},
        {"final_lr": 1.5}, {"clip_norm": 0}, {"ema_decay": 1.0}, {"precision": "float16"}, {"learning_rate": 0.1},
        {"batch": 6, "accumulate": 4}, {"warmup_steps": -1}, {"eval_epochs": 0},
        {"drops": [0.9, 0.5]}, {"drops": [0.5, 0.5]}, {"drops": [1.0]}, {"drops": [0]},
    ],
)  # fmt: skip
def test_values_out_of_range_and_unknown_keys_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings(**wrong)  # type: ignore[arg-type]


def test_precision_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert TrainingSettings().autocast_dtype(cpu) is None
    assert TrainingSettings(precision="float32").autocast_dtype(cpu) is None
    assert TrainingSettings(precision="bfloat16").autocast_dtype(cpu) is torch.bfloat16


def test_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an old GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert TrainingSettings().autocast_dtype(gpu) is torch.bfloat16
    assert TrainingSettings(precision="float32").autocast_dtype(gpu) is None
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert TrainingSettings().autocast_dtype(gpu) is None
    with pytest.raises(ResourceError, match=r"training\.precision: .*an old GPU"):
        TrainingSettings(precision="bfloat16").autocast_dtype(gpu)


def test_how_many_epochs_the_warmup_takes() -> None:
    of = TrainingSettings(epochs=12, batch=8, warmup_steps=50)
    assert of.warmup_epochs(205) == 2, "25 whole batches an epoch"
    assert of.warmup_epochs(1000) == pytest.approx(0.4)
    cut = TrainingSettings(epochs=12, batch=8, warmup_steps=80)
    assert cut.warmup_epochs(205) == pytest.approx(2.4), "a fifth of all steps"
    assert TrainingSettings(epochs=12, batch=8, warmup_steps=0).warmup_epochs(205) == 0
    assert TrainingSettings(epochs=10, batch=64, warmup_steps=80).warmup_epochs(3) == 2, "one step an epoch"
    automatic = TrainingSettings.model_validate({"epochs": 12, "batch": "auto", "base_batch": 8, "warmup_steps": 50})
    assert automatic.warmup_epochs(205) == 2
