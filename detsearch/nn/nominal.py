"""The load at which a detector's cost and latency are taken, so that they belong to the architecture: how many boxes
pass a threshold, and how many of them are suppressed, depends on the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from detsearch.nn.detector import Detector
from detsearch.nn.interfaces import Filling

NOMINAL_CANDIDATES: Final = 100
"""Boxes of a level, or of all proposals, that pass the threshold: about what a trained detector has in a full scene. At
the 1,000 that heads admit at most, NMS would take longer than a slim network."""


@contextmanager
def nominal_load(detector: Detector) -> Iterator[None]:
    """Within this context the head's `score_threshold` is 0 and its `candidates` are at most `NOMINAL_CANDIDATES`, and
    what feeds other modules fills up: every image has all the proposals and all the masks that it can have."""
    head = detector.head
    before = head.score_threshold, head.candidates
    filling = [(part, part.fill) for part in detector.modules() if isinstance(part, Filling)]
    head.score_threshold, head.candidates = 0.0, min(NOMINAL_CANDIDATES, head.candidates)
    for part, _ in filling:
        part.fill = True
    try:
        yield
    finally:
        head.score_threshold, head.candidates = before
        for part, fill in filling:
            part.fill = fill
