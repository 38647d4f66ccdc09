"""Who holds a device shared, and how long: an optimiser step, and a batch of predictions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detsearch.cost.device_lock import exclusive
from detsearch.evaluation.predict import predict
from detsearch.nn.structures import Detections, ImageBatch, Targets
from tests.evaluation.cases import record
from tests.training.toys import Loader, Toy, run, settings

BATCHES = 6
PATIENCE = 0.3

Work = Callable[[Callable[[], None]], None]
"""`BATCHES` pieces of work on ``cpu``, each of which calls what it is given while it is under way."""


@pytest.fixture(params=["training", "prediction"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Work:
    return (lambda inside: _train(tmp_path, inside)) if request.param == "training" else _predict


def _train(folder: Path, inside: Callable[[], None]) -> None:
    class Detector(Toy):
        def forward(self, images: ImageBatch, targets: Targets) -> dict[str, Tensor]:
            inside()
            return super().forward(images, targets)

    run(folder, Detector(), Loader(), settings(epochs=BATCHES // 3))


def _predict(inside: Callable[[], None]) -> None:
    class Runtime:
        name, device, precision, threads = "still", "cpu", "float32", 1

        def __call__(self, images: ImageBatch) -> Detections:
            inside()
            none = torch.zeros(len(images), 0)
            return Detections(torch.zeros(len(images), 0, 4), none, none.long(), none.bool())

        def synchronize(self) -> None:
            pass

        def nominal_load(self) -> nullcontext[None]:
            return nullcontext()

    image = ImageBatch(torch.zeros(1, 3, 48, 64, dtype=torch.uint8), torch.tensor([[48, 64]]))
    predict(Runtime(), [(image, [record(number)]) for number in range(BATCHES)])


def test_work_waits_for_a_measurement_and_goes_on_after_it(work: Work) -> None:
    begun = threading.Event()
    thread = threading.Thread(target=work, args=(begun.set,), daemon=True)
    with exclusive("cpu"):
        thread.start()
        early = begun.wait(PATIENCE)
    thread.join(60)
    assert not early
    assert begun.is_set()
    assert not thread.is_alive()


def test_a_measurement_waits_for_the_piece_under_way_and_not_for_all(work: Work) -> None:
    """The first piece asks for a measurement: that must not begin beside it, but before the last piece."""
    pieces = 0
    began_after: list[int] = []
    measured = threading.Event()

    def measure() -> None:
        with exclusive("cpu"):
            began_after.append(pieces)
            measured.set()

    def inside() -> None:
        nonlocal pieces
        if pieces == 0:
            threading.Thread(target=measure, daemon=True).start()
            assert not measured.wait(PATIENCE)
        pieces += 1

    work(inside)
    assert measured.wait(60)
    assert pieces == BATCHES
    assert 1 <= began_after[0] < BATCHES
