from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detsearch.errors import CheckpointError, DataError, ResourceError, TrainingError
from detsearch.nn.structures import ImageBatch, Targets
from detsearch.search.trial import TrialInterrupted
from detsearch.training import log as logs
from detsearch.training.checkpoint import read_checkpoint
from detsearch.training.run import TrainingRun
from tests.training.toys import CLASSES, SPEC, Loader, Toy, run, same, settings, stop_after, weights


def _records(folder: Path) -> list[dict[str, object]]:
    """The log without wall times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_learns_and_leaves_a_log_and_a_checkpoint(tmp_path: Path) -> None:
    detector = Toy()
    reports: list[tuple[int, int, str]] = []
    trained = run(tmp_path, detector, Loader(), settings(epochs=20), report=lambda *what: reports.append(what))
    records = _records(tmp_path)
    assert [record["epoch"] for record in records] == list(range(1, 21))
    assert records[-1]["loss"] < records[0]["loss"] * 0.7
    assert records[-1]["loss"] == pytest.approx(sum(records[-1]["losses"].values()))
    assert records[-1]["images"] == 12
    assert [report[:2] for report in reports] == [(epoch, 20) for epoch in range(1, 21)]
    assert (trained.epochs, trained.steps) == (20, 60)
    assert not trained.model.training
    checkpoint = read_checkpoint(trained.checkpoint)
    assert same(dict(checkpoint.weights), weights(trained.model))
    assert (checkpoint.meta.epoch, checkpoint.meta.step) == (20, 60)
    assert checkpoint.meta.seconds == trained.seconds > 0
    assert checkpoint.state is None, "a finished checkpoint holds the weights only"


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stops", [[1], [2], [3], [4], [1, 1, 5], [9]])
def test_a_resumed_run_equals_the_uninterrupted_one(
    tmp_path: Path, stops: list[int], accumulate: int, ema: float | None
) -> None:
    """3 epochs of 3 steps, interrupted in the middle, at the end of an epoch, and at the very end."""
    chosen = settings(accumulate=accumulate, ema_decay=ema)

    def make() -> tuple[Toy, Loader]:
        return Toy(norm=True, dropout=0.3), Loader(batch=chosen.loader_batch)

    plain = run(tmp_path / "plain", *make(), chosen)
    for stop in stops:
        torch.rand(3)  # whatever else happens in the process
        with pytest.raises(TrialInterrupted):
            run(tmp_path / "resumed", *make(), chosen, should_stop=stop_after(stop))
    detector, loader = make()
    resumed = run(tmp_path / "resumed", detector, loader, chosen)
    epoch, step = divmod(sum(stops), 3)
    if step > 0:  # at the end of an epoch, its summary is still to be written
        assert loader.asked[0] == (epoch, step * accumulate), "batches that are behind are not loaded again"
    assert same(weights(plain.model), weights(resumed.model))
    assert _records(tmp_path / "plain") == _records(tmp_path / "resumed")
    assert same(dict(read_checkpoint(plain.checkpoint).weights), dict(read_checkpoint(resumed.checkpoint).weights))


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_training_in_parts_equals_the_whole(tmp_path: Path, ema: float | None) -> None:
    """1, 2 and 4 of 4 epochs, each in a folder of its own that goes on where the one before ended."""
    chosen = settings(epochs=4, ema_decay=ema, eval_epochs=1)
    metrics: dict[str, Any] = {"evaluate": lambda _: {"ap": 0.5}}
    whole = run(tmp_path / "whole", Toy(norm=True, dropout=0.3), Loader(), chosen, **metrics)
    start = None
    for until in (1, 2, 4):
        folder = tmp_path / str(until)
        part = run(folder, Toy(norm=True, dropout=0.3), Loader(), chosen, until=until, start=start, **metrics)
        assert (part.epochs, part.steps) == (until, 3 * until)
        assert [record["epoch"] for record in _records(folder)] == list(range(1, until + 1))
        start = folder
    assert same(weights(whole.model), weights(part.model))
    for here, there in zip(_records(tmp_path / "whole"), _records(tmp_path / "4"), strict=True):
        # What is scored at the end of a part is its result, not a line of its log.
        assert {**here, "metrics": None} == {**there, "metrics": None}
    # What was there before is only read, and a folder with a training of its own goes on with that.
    assert read_checkpoint(tmp_path / "1" / "checkpoint.pt").meta.epoch == 1
    again = run(tmp_path / "4", Toy(norm=True, dropout=0.3), Loader(), chosen, start=tmp_path / "1", **metrics)
    assert same(weights(again.model), weights(part.model))


def test_what_answers_is_the_average_where_one_is_kept(tmp_path: Path) -> None:
    """What is handed out, saved and scored on the way, against the formula over the weights after every step."""
    detector, loader = Toy(), Loader()
    average = weights(detector)
    scored: list[dict[str, Tensor]] = []
    averages: list[dict[str, Tensor]] = []

    def step_done() -> bool:
        n = len(averages)
        decay = min(0.9, (1 + n) / (10 + n))
        averages.append({name: decay * average[name] + (1 - decay) * now for name, now in weights(detector).items()})
        average.update(averages[-1])
        return False

    def evaluate(answering: Any) -> dict[str, float]:
        scored.append(weights(answering))
        return {}

    chosen = settings(ema_decay=0.9, eval_epochs=1)
    trained = run(tmp_path, detector, loader, chosen, should_stop=step_done, evaluate=evaluate)
    assert len(averages) == 9
    raw = weights(detector)
    assert max(float((raw[name] - average[name]).abs().max()) for name in raw) > 1e-3, "they can be told apart"
    saved = dict(read_checkpoint(trained.checkpoint).weights)
    for found, expected in (
        (weights(trained.model), average),
        (saved, average),
        (scored[0], averages[2]),
        (scored[1], averages[5]),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


class _Killed(BaseException):
    """As SIGKILL: nothing is saved on the way out."""


@pytest.mark.parametrize("cadence", [1, 2])
@pytest.mark.parametrize("step", [0, 4, 7])
def test_a_killed_run_goes_on_from_the_last_checkpoint(tmp_path: Path, step: int, cadence: int) -> None:
    chosen = settings(epochs=4, checkpoint_epochs=cadence)
    plain = run(tmp_path / "plain", Toy(dropout=0.3), Loader(), chosen)
    asked = itertools.count()

    def killed() -> bool:
        if next(asked) == step:
            raise _Killed
        return False

    with pytest.raises(_Killed):
        run(tmp_path / "killed", Toy(dropout=0.3), Loader(), chosen, should_stop=killed)
    with (tmp_path / "killed/log.jsonl").open("a") as log:
        log.write('{"epoch": 3, "st')  # torn in the middle of a line
    resumed = run(tmp_path / "killed", Toy(dropout=0.3), Loader(), chosen)
    assert same(weights(plain.model), weights(resumed.model))
    assert _records(tmp_path / "plain") == _records(tmp_path / "killed")


def test_an_evaluation_on_the_way_changes_nothing(tmp_path: Path) -> None:
    scored: list[int] = []

    def evaluate(detector: Toy) -> dict[str, float]:
        detector.eval().to(memory_format=torch.contiguous_format)  # as a runtime does
        torch.rand(5)
        scored.append(len(scored))
        return {"ap": 0.25}

    plain = run(tmp_path / "plain", Toy(norm=True, dropout=0.3), Loader(), settings(epochs=5))
    other = run(
        tmp_path / "scored", Toy(norm=True, dropout=0.3), Loader(), settings(epochs=5, eval_epochs=2), evaluate=evaluate
    )
    assert same(weights(plain.model), weights(other.model))
    assert len(scored) == 2
    assert [record.get("metrics") for record in _records(tmp_path / "scored")] == [
        None,
        {"ap": 0.25},
        None,
        {"ap": 0.25},
        None,
    ]


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = run(tmp_path, Toy(), Loader(), settings(ema_decay=0.9))
    loader = Loader()
    again = run(tmp_path, Toy(), loader, settings(ema_decay=0.9))
    assert same(weights(first.model), weights(again.model))
    assert loader.asked == []
    assert (again.steps, again.seconds) == (first.steps, first.seconds)
    assert len(_records(tmp_path)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": settings(lr=0.1)}, r"expected lr 0\.1 .* got 0\.2"),
        ({"chosen": settings(epochs=4)}, "expected epochs 4 .* got 3"),
        ({"seed": 8}, "expected seed 8 .* got 7"),
        ({"classes": ("a", "c")}, "expected the classes a, c, got a, b"),
        ({"loader": Loader(images=20)}, "5 steps an epoch"),
    ],
)
def test_another_training_is_not_gone_on_with(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(TrialInterrupted):
        run(tmp_path, Toy(), Loader(), settings(), should_stop=stop_after(2))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    arguments = {"loader": Loader(), "chosen": settings(), **change}
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, Toy(), **arguments)  # type: ignore[arg-type]
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_cadences_and_workers_may_change_on_the_way(tmp_path: Path) -> None:
    with pytest.raises(TrialInterrupted):
        run(tmp_path, Toy(), Loader(), settings(), should_stop=stop_after(2))
    run(tmp_path, Toy(), Loader(), settings(log_steps=1, checkpoint_epochs=3, eval_epochs=2, workers=3))


def test_the_parts_of_a_batch_make_the_gradient_of_the_batch(tmp_path: Path) -> None:
    """float64, no norm, 13 images in batches of 4: whole, in halves and one by one."""
    trained = []
    for accumulate in (1, 2, 4):
        chosen = settings(accumulate=accumulate, clip_norm=0.05)
        detector = Toy(dtype=torch.float64)
        trained.append(run(tmp_path / str(accumulate), detector, Loader(batch=chosen.loader_batch), chosen))
        assert set(detector.calls) == {4 // accumulate}
    assert {one.steps for one in trained} == {9}
    for other in trained[1:]:
        for name, value in weights(trained[0].model).items():
            torch.testing.assert_close(weights(other.model)[name], value, rtol=1e-12, atol=1e-14)
    logged = [_records(tmp_path / str(accumulate)) for accumulate in (1, 2, 4)]
    for other in logged[1:]:
        assert other[0]["loss"] == pytest.approx(logged[0][0]["loss"], rel=1e-12)


def test_one_step_is_clipped_sgd_with_momentum_decay_and_schedule(tmp_path: Path) -> None:
    """Two steps written out by hand, in float64."""
    chosen = settings(epochs=2, batch=4, lr=0.2, clip_norm=0.5, warmup_steps=0, weight_decay=0.01, final_lr=0.5)
    loader = Loader(images=4)
    detector = Toy(dtype=torch.float64)
    mirror = copy.deepcopy(detector)
    trained = run(tmp_path, detector, loader, chosen)
    parameters = list(mirror.parameters())
    momenta = [torch.zeros_like(parameter) for parameter in parameters]
    for epoch, factor in enumerate([1.0, 0.5]):
        loader.set_epoch(epoch)
        ((images, targets),) = loader
        gradients = torch.autograd.grad(torch.stack(list(mirror(images, targets).values())).sum(), parameters)
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        assert norm > 0.5, "the case is meant to clip"
        assert _records(tmp_path)[epoch]["grad_norm"] == pytest.approx(norm)
        with torch.no_grad():
            for parameter, gradient, momentum in zip(parameters, gradients, momenta, strict=True):
                momentum.mul_(0.9).add_(gradient * 0.5 / norm + 0.01 * parameter)
                parameter.sub_(0.2 * 4 / 16 * factor * momentum)
    for name, value in weights(mirror).items():
        torch.testing.assert_close(weights(trained.model)[name], value, rtol=1e-6, atol=1e-9)


class _Breaks(Toy):
    """From call `at` on, a loss or only its gradient is not finite."""

    def __init__(self, at: int, value: float, *, gradient_only: bool = False) -> None:
        super().__init__(norm=True)
        self.at, self.value, self.gradient_only = at, value, gradient_only

    def forward(self, images: ImageBatch, targets: Targets) -> dict[str, Tensor]:
        losses = super().forward(images, targets)
        if len(self.calls) >= self.at:
            if self.gradient_only:  # the square root of 0 is finite, its gradient is not
                losses["classes"] = losses["classes"] + (self.head.bias * 0).abs().sum().sqrt()
            else:
                losses["classes"] = losses["classes"] * self.value
        return losses


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_Breaks(5, math.nan), "epoch 2, step 5: loss classes is nan"),
        (_Breaks(5, math.inf), "epoch 2, step 5: loss classes is inf"),
        (_Breaks(5, 1.0, gradient_only=True), "epoch 2, step 5: the gradient's norm is"),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_run_with_its_name(tmp_path: Path, broken: Toy, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        run(tmp_path, broken, Loader(), settings())
    assert "\n" not in str(caught.value)
    assert all(torch.isfinite(parameter).all() for parameter in broken.parameters())
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pt")
    assert checkpoint.meta.epoch == 1
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.weights.values())
    mended = run(tmp_path, Toy(norm=True), Loader(), settings())
    plain = run(tmp_path / "plain", Toy(norm=True), Loader(), settings())
    assert same(weights(mended.model), weights(plain.model))


def test_breaking_in_the_first_step_leaves_the_first_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="epoch 1, step 1"):
        run(tmp_path, _Breaks(1, math.nan), Loader(), settings())
    assert read_checkpoint(tmp_path / "checkpoint.pt").meta.step == 0


def test_parts_of_different_size_weigh_by_their_images() -> None:
    """Three images as one part, and as a part of two and a part of one."""
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    boxes = [torch.rand(count, 4) * 64 for count in (2, 0, 1)]
    images = ImageBatch(pixels, torch.full((3, 2), 8))
    targets = Targets.from_lists(boxes, [torch.zeros(len(box), dtype=torch.int64) for box in boxes])
    parts = [
        (
            ImageBatch(pixels[rows], images.sizes[rows]),
            Targets(targets.boxes[rows], targets.labels[rows], targets.valid[rows]),
        )
        for rows in (slice(0, 2), slice(2, 3))
    ]
    gradients = []
    for batch in ([(images, targets)], parts):
        detector = Toy(dtype=torch.float64)
        one = TrainingRun(
            detector, settings(clip_norm=None), spec=SPEC, classes=CLASSES, seed=0, device="cpu", batches=1
        )  # type: ignore[arg-type]
        one.begin_epoch()
        one.optimise(batch)
        gradients.append((weights(detector), one.record()))
    for name, value in gradients[0][0].items():
        torch.testing.assert_close(gradients[1][0][name], value, rtol=1e-12, atol=1e-15)
    assert gradients[0][1]["losses"] == pytest.approx(gradients[1][1]["losses"], rel=1e-12)
    assert gradients[0][1]["grad_norm"] == pytest.approx(gradients[1][1]["grad_norm"], rel=1e-12)


@pytest.mark.parametrize("images", [1, 3])
def test_fewer_images_than_a_batch_and_no_boxes(tmp_path: Path, images: int) -> None:
    trained = run(tmp_path, Toy(), Loader(images=images, boxes=False), settings())
    assert trained.steps == 3


def test_an_empty_loader_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one image"):
        run(tmp_path, Toy(), Loader(images=0), settings())


def test_a_folder_that_cannot_be_made_shows_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    detector = Toy()
    with pytest.raises(ResourceError, match="file"):
        run(tmp_path / "file" / "folder", detector, Loader(), settings())
    assert detector.calls == []


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    detector = Toy()
    detector.conv.requires_grad_(False)
    before = weights(detector)
    run(tmp_path, detector, Loader(), settings())
    after = weights(detector)
    assert torch.equal(before["conv.weight"], after["conv.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_bfloat16_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    run(tmp_path, Toy(), Loader(), settings(epochs=20, precision="bfloat16"))
    records = _records(tmp_path)
    assert records[-1]["loss"] < records[0]["loss"] * 0.7
    assert all(tensor.dtype == torch.float32 for tensor in read_checkpoint(tmp_path / "checkpoint.pt").weights.values())


def test_the_log_of_a_folder_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    logs.append(tmp_path / "log.jsonl", {"epoch": 1})
    run(tmp_path, Toy(), Loader(), settings())
    assert [record["epoch"] for record in _records(tmp_path)] == [1, 2, 3]
