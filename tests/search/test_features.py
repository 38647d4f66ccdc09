from __future__ import annotations

from pathlib import Path

import numpy as np

from detsearch.arch.code import parse_detector
from detsearch.arch.spaces.section import read_space
from detsearch.search.features import GROUPS, distances, numbered
from tests.search.generated import CHOICES

BASE = "basicblock_16_1-21-21-21/fpn(levels=3-4-5,width=32)/retinanet(depth=1)/gn_ws@128x96"


def between(a: str, b: str, *others: str) -> dict[str, float]:
    """Distances of two detectors, in the range that others span."""
    specs = [parse_detector(text) for text in (a, b, *others)]
    return dict(zip(GROUPS, distances(specs, specs)[:, 0, 1].tolist(), strict=True))


def test_a_distance_of_sorts() -> None:
    specs = list(read_space(CHOICES).all())
    found = distances(specs, specs)
    assert found.shape == (len(GROUPS), len(specs), len(specs))
    assert (found == found.transpose(0, 2, 1)).all()
    assert found.min() == 0
    assert found.max() <= 1
    same = (found == 0).all(axis=0)
    assert (same == np.eye(len(specs), dtype=bool)).all(), "only what is equal is at no distance"


def test_only_what_differs_counts_and_near_numbers_are_near() -> None:
    wide, wider = BASE.replace("width=32", "width=64"), BASE.replace("width=32", "width=256")
    near, far = between(BASE, wide, wider), between(BASE, wider, wide)
    assert {name for name, value in near.items() if value} == {"neck"}
    assert 0.5 < near["neck"] < far["neck"] == 1
    assert between(BASE, BASE.replace("gn_ws", "gn"))["norm"] == 1
    kinds = between(BASE, BASE.replace("retinanet(depth=1)", "fcos(depth=1)"))
    assert kinds["head"] > 0.5


def test_other_peoples_modules_are_read_as_ours(toy_package: Path) -> None:
    theirs = [f"toynet(width={width})/fpn(levels=3-4-5,width=32)/centre/gn_ws@128x96" for width in (8, 16, 64)]
    found = between(theirs[0], theirs[1], theirs[2], BASE)
    assert 0 < found["backbone"] < between(theirs[0], theirs[2], theirs[1], BASE)["backbone"]
    assert found["head"] == 0
    assert between(theirs[0], BASE)["head"] > 0.5


def test_equals_have_one_number() -> None:
    """Whether or not they are the same object."""
    first, same, other = ((size, 2) for size in (1, 1, 3))
    assert first is not same
    assert numbered([first, other, same, first]) == ([first, other], [0, 1, 0, 0])
    assert numbered([]) == ([], [])
