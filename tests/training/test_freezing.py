"""Frozen stages and norms of a backbone over a whole training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.errors import CheckpointError, RecipeError
from detsearch.nn.detector import Detector
from detsearch.search.trial import TrialInterrupted
from detsearch.training.checkpoint import read_checkpoint
from detsearch.training.run import TrainingRun
from tests.training.toys import CLASSES, SPEC, Loader, run, same, settings, stop_after, weights

FROZEN = {"lr": 0.05, "weight_decay": 0.1, "frozen_stages": 2, "frozen_bn": True}


def _detector() -> Detector:
    torch.manual_seed(0)
    return build(parse_network("basicblock_8_1-1-2-2/fpn(levels=3-4,width=8)/retinanet(depth=1)"), 2)


def _frozen(state: dict[str, Tensor], detector: nn.Module) -> dict[str, Tensor]:
    """What may not change: stem and first stage, and whatever belongs to a batch norm of the backbone."""
    norms = [name for name, module in detector.named_modules() if isinstance(module, nn.BatchNorm2d)]
    kept = ("backbone.stem.", "backbone.layer1.", *(f"{name}." for name in norms if name.startswith("backbone")))
    return {name: tensor for name, tensor in state.items() if name.startswith(kept)}


@pytest.mark.parametrize("ema", [None, 0.9])
def test_frozen_parts_stay_and_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, ema: float | None) -> None:
    chosen = settings(**FROZEN, ema_decay=ema)
    before = weights(_detector())
    plain = run(tmp_path / "plain", _detector(), Loader(), chosen)
    for stop in (1, 4):
        with pytest.raises(TrialInterrupted):
            run(tmp_path / "resumed", _detector(), Loader(), chosen, should_stop=stop_after(stop))
    resumed = run(tmp_path / "resumed", _detector(), Loader(), chosen)
    after = weights(plain.model)
    assert same(after, weights(resumed.model))
    assert same(_frozen(before, plain.model), _frozen(after, plain.model)), "despite the weight decay"
    learned = [name for name, _ in plain.model.named_parameters() if name not in _frozen(after, plain.model)]
    assert not any(torch.equal(before[name], after[name]) for name in learned if after[name].ndim > 1)
    assert same(dict(read_checkpoint(plain.checkpoint).weights), after)


def test_frozen_parameters_have_no_optimiser_state() -> None:
    detector, chosen = _detector(), settings(**FROZEN)
    training = TrainingRun(detector, chosen, spec=SPEC, classes=CLASSES, seed=0, device="cpu", batches=3)
    training.begin_epoch()
    training.optimise(list(Loader())[:1])
    state = training.optimiser.state
    for name, parameter in detector.named_parameters():
        assert (parameter in state) == (name not in _frozen(dict(detector.named_parameters()), detector)), name
    assert len(state) == sum(len(group["params"]) for group in training.optimiser.param_groups)


@pytest.mark.parametrize(
    ("change", "message"), [({"frozen_stages": 1}, "frozen_stages 1"), ({"frozen_bn": False}, "frozen_bn False")]
)
def test_another_freezing_is_another_training(tmp_path: Path, change: dict[str, object], message: str) -> None:
    run(tmp_path, _detector(), Loader(), settings(**FROZEN))
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, _detector(), Loader(), settings(**{**FROZEN, **change}))


def test_more_stages_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"training.frozen_stages: expected 0 to 5"):
        run(tmp_path, _detector(), Loader(), settings(frozen_stages=6))
