"""Randomness that depends on where a training is, not on how it got there.

Every optimiser step begins with generators seeded from (seed, step). So a resumed run needs no saved generator state,
and it draws what the uninterrupted run drew, whatever the loader, a progress bar or an evaluation consumed meanwhile.
"""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_all(*entropy: int) -> None:
    """Seed the global generators of python, numpy and torch (all devices) from some integers >= 0.

    The integers are mixed (numpy's SeedSequence), so that neighbouring steps and seeds share nothing.
    """
    words = np.random.SeedSequence(entropy).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 - other people's modules may use the global generator
    torch.manual_seed(int(words[2]) << 32 | int(words[3]))
