from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given

from detsearch.arch.catalogue import ABSENT, Catalogue, Descriptor
from detsearch.arch.code import parse_detector
from detsearch.arch.modules import MODULES
from detsearch.arch.modules.necks import FPNSpec
from detsearch.arch.partial_order import leq, network_leq
from detsearch.arch.spaces.structural import StructuralSpace
from detsearch.arch.spec import DetectorSpec, ModuleSpec
from detsearch.types import InputSize
from tests.arch.toys import CELLS, OURS, TOY_CATALOGUE, detectors

BASE = "basicblock_64_11-21-21-21/fpn(levels=3-4-5,width=128)/retinanet(depth=2)@512x512"

SPACE = StructuralSpace.from_choices(
    {
        "backbone": ["resnet18", "resnet34", "resnet50", "basicblock_32_1-2-2-2", "basicblock_64_1-2-2-2"],
        "neck": [{"fpn": {"levels": ["3-4-5", "3-4-5-6"], "width": [64, 128]}}],
        "head": [{"retinanet": {"depth": [1, 2], "width": [0, 64, 128]}}],
        "norm": ["bn", "gn_ws"],
        "input": ["512x512", "256x256"],
    }
)
MEMBERS = list(SPACE.all())


@dataclass(frozen=True)
class Stacked(ModuleSpec):
    """A third party's head with a number of stages, more of which are deeper, and a kind that has no order."""

    stages: int = 3
    kind: str = "plain"


KNOWN = Catalogue(
    [
        *MODULES,
        Descriptor(
            slot="head",
            token="stacked",
            spec=Stacked,
            builder="toys:build",
            summary="",
            beside={"proposals": (ABSENT,)},
            order={"stages": operator.le},
        ),
    ]
)


def changed(old: str, new: str) -> DetectorSpec:
    assert old in BASE
    return parse_detector(BASE.replace(old, new), OURS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("11-21-21-21", "111-2111-211111-211"),
        ("basicblock_64_11-21-21-21", "basicblock_72_11-21-21-21"),
        ("11-21-21-21", "12-11-21-21"),
        ("width=128", "width=256"),
        ("depth=2", "depth=3"),
    ],
)
def test_deeper_or_wider_is_greater(old: str, new: str) -> None:
    a, b = parse_detector(BASE, OURS), changed(old, new)
    assert leq(a, b, OURS)
    assert not leq(b, a, OURS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("512x512", "1024x1024"),
        ("3-4-5", "3-4-5-6"),
        ("3-4-5", "2-3-4-5"),
        ("@", "/gn_ws@"),
        ("basicblock_64_11-21-21-21", "resnet18"),  # another stem
        ("basicblock_64_11-21-21-21", "bottleneck_64_11-21-21-21"),
        ("basicblock_64_11-21-21-21", "mobilenetv2"),
        ("basicblock_64_11-21-21-21", "basicblock_72_11-21-21-1"),  # wider, but narrower at the end
        ("depth=2", "depth=2,anchor_scale=8"),
        ("depth=2", "depth=2,width=512"),  # against a width that follows the maps
        ("width=128", "width=128,extra_from=c5"),
    ],
)
def test_what_is_neither_deeper_nor_wider_is_not_comparable(old: str, new: str) -> None:
    a, b = parse_detector(BASE, OURS), changed(old, new)
    assert not leq(a, b, OURS)
    assert not leq(b, a, OURS)


@pytest.fixture(scope="module")
def order() -> np.ndarray:
    """leq of every pair of members."""
    return np.array([[leq(a, b) for b in MEMBERS] for a in MEMBERS])


def test_partial_order_on_a_whole_space(order: np.ndarray) -> None:
    """Reflexive, antisymmetric and transitive over all pairs and triples."""
    assert order.diagonal().all()
    assert not (order & order.T & ~np.eye(len(MEMBERS), dtype=bool)).any()
    steps = order.astype(np.float32)
    assert not ((steps @ steps > 0) & ~order).any()
    assert order.sum() > 3 * len(MEMBERS), "comparable pairs are common"


def test_comparable_detectors_differ_in_depth_and_width_only(order: np.ndarray) -> None:
    for a, b in np.argwhere(order):
        first, second = MEMBERS[a], MEMBERS[b]
        assert (first.input, first.network.norm) == (second.input, second.network.norm)
        assert isinstance(first.network.neck, FPNSpec)
        assert isinstance(second.network.neck, FPNSpec)
        assert first.network.neck.levels == second.network.neck.levels


@given(detectors(), detectors(), detectors())
def test_partial_order_on_any_detectors(a: DetectorSpec, b: DetectorSpec, c: DetectorSpec) -> None:
    assert leq(a, a, OURS)
    assert not (leq(a, b, OURS) and leq(b, a, OURS)) or a == b
    assert not (leq(a, b, OURS) and leq(b, c, OURS)) or leq(a, c, OURS)


def test_networks_are_ordered_whatever_their_input() -> None:
    a, b = parse_detector(BASE, OURS), changed("depth=2", "depth=3").network.at(InputSize(256, 256))
    assert network_leq(a.network, b.network, OURS)
    assert not leq(a, b, OURS)


def test_a_third_partys_order_is_respected() -> None:
    def stacked(fields: str, levels: str = "3-4-5") -> DetectorSpec:
        return parse_detector(f"resnet18/fpn(levels={levels})/stacked({fields})@512x512", KNOWN)

    assert leq(stacked("stages=2"), stacked("stages=4"), KNOWN)
    assert not leq(stacked("stages=4"), stacked("stages=2"), KNOWN)
    assert not leq(stacked("stages=2"), stacked("stages=4,kind=other"), KNOWN)
    assert not leq(stacked("stages=2"), stacked("stages=4", "3-4"), KNOWN)


def test_an_empty_slot_is_comparable_with_an_empty_slot_only() -> None:
    without = parse_detector("resnet18/stacked@512x512", KNOWN)
    with_neck = parse_detector("resnet18/fpn(levels=3-4-5)/stacked@512x512", KNOWN)
    assert leq(without, without, KNOWN)
    assert not leq(without, with_neck, KNOWN)
    assert not leq(with_neck, without, KNOWN)


def test_modules_inside_modules_are_ordered_by_their_own_order() -> None:
    def head(mask: str) -> DetectorSpec:
        text = f"scalars(depth=2)/cellhead(cls={CELLS},reg={CELLS},mask={mask})@512x512"
        return parse_detector(text, TOY_CATALOGUE)

    narrow, wide = head("stencil(width=8)"), head("stencil(width=16)")
    assert leq(narrow, wide, TOY_CATALOGUE)
    assert not leq(wide, narrow, TOY_CATALOGUE)
    less, more = (head(f"stencil(width=8,deeper=stencil(width={width}))") for width in (1, 2))
    assert leq(less, more, TOY_CATALOGUE)
    assert not leq(narrow, head("stencil(width=16,deeper=stencil(width=2))"), TOY_CATALOGUE)
