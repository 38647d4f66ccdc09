from __future__ import annotations

import random

import numpy as np
import torch

from detsearch.training.seeding import seed_all


def _draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_the_same_place_draws_the_same_and_others_do_not() -> None:
    drawn = {}
    for place in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        seed_all(*place)
        drawn[place] = _draw()
    for generator in range(3):
        assert len({values[generator] for values in drawn.values()}) == 4
    seed_all(1, 0)
    assert _draw() == drawn[1, 0]
