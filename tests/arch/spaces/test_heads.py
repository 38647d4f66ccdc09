"""The space of one detector whose cells vary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detsearch.arch.cells import SETS
from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.heads import HeadSpace
from detsearch.arch.spaces.section import expect_listable, read_space, representatives
from detsearch.errors import RecipeError
from tests.contracts.space_contract import SpaceContract

SLIM = "basicblock_8_1-2-2-2/fpn(levels=3-4,width=16)/fcos"


def space(detector: str = f"{SLIM}@128x128", **more: Any) -> HeadSpace:
    found = read_space({"cells": {"detector": detector, **more}})
    assert isinstance(found, HeadSpace)
    return found


class TestTwoGroups(SpaceContract):
    @pytest.fixture
    def space(self) -> Space:
        return space(operations=["std1", "sep2"], nodes=1, inputs=2)


class TestOneGroup(SpaceContract):
    """In the mask branch of a detector of two stages."""

    @pytest.fixture
    def space(self) -> Space:
        return space("mask_rcnn_r18_fpn@512x512", operations=["std1", "skip", "max3"], nodes=2, inputs=1)


def test_the_whole_space_of_two_groups() -> None:
    """(18 x 12^6)^2, exactly, and without listing it."""
    whole = space("fcos_r18_fpn@512x512")
    assert whole.size() == (18 * 12**6) ** 2
    assert whole.contains(parse_detector("resnet18/fpn/fcos(tower=cells)@512x512"))
    assert not whole.contains(parse_detector("resnet18/fpn/fcos@512x512"))
    assert not whole.contains(parse_detector("resnet18/fpn/fcos(tower=cells(width=64))@512x512"))
    assert not whole.contains(parse_detector("resnet18/fpn/fcos(tower=cells(boxes=skip(0)))@512x512"))
    first, second = representatives(whole)
    assert first != second
    with pytest.raises(RecipeError, match="space: expected at most 200000 detectors for a table, got 2888816545234944"):
        expect_listable(whole, "a table")


def test_mutations_change_one_cell_by_a_step() -> None:
    whole, rng = space("retinanet_r18_fpn@512x512", operations="rf7"), np.random.default_rng(0)
    spec = whole.sample(rng)
    for _ in range(50):
        new = whole.mutate(spec, rng)
        assert new in set(whole.neighbours(spec))
        spec = new


def test_a_parent_from_outside_is_brought_back_where_one_step_suffices() -> None:
    narrow = space(operations=["std1", "sep2"], nodes=1)
    near = parse_detector(f"{SLIM}(tower=cells(boxes=std1(0)+std3(1),classes=std1(0)+std1(1)))@128x128")
    found = list(narrow.neighbours(near))
    assert len(found) == 2
    assert all(map(narrow.contains, found))
    assert narrow.contains(narrow.mutate(near, np.random.default_rng(0)))
    far = parse_detector(f"{SLIM}(tower=cells)@128x128")
    assert narrow.mutate(far, np.random.default_rng(0)) == far


def test_choices_round_trip() -> None:
    found = space("fcos_r18_fpn@512x512", operations="std")
    assert found.to_choices() == {
        "cells": {
            "detector": "resnet18/fpn/fcos(tower=cells)@512x512",
            "operations": list(SETS["std"]),
            "nodes": 3,
            "inputs": 2,
        }
    }
    assert read_space(found.to_choices()) == found
    assert format_detector(found.detector) == found.to_choices()["cells"]["detector"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (3, "space.cells: expected a section with a detector (detector, operations, nodes, inputs), got 3"),
        ({}, "space.cells: expected a section with a detector"),
        ({"detector": "fcos_r18_fpn", "operation": "std"}, "'operation'; did you mean operations?"),
        ({"detector": "fcos_r18"}, "space.cells.detector: expected a preset or a detector's code, got 'fcos_r18'"),
        ({"detector": 7}, "space.cells.detector: expected a preset or a detector's code, got 7"),
        ({"detector": "faster_rcnn_r18_fpn"}, "head: expected fcos, retinanet, or a mask branch"),
        ({"detector": "fcos_r18_fpn", "operations": "standard"}, "space.cells.operations: expected full, rf5"),
        ({"detector": "fcos_r18_fpn", "operations": ["std7"]}, "space.cells.operations: expected an operation"),
        ({"detector": "fcos_r18_fpn", "operations": []}, "space.cells.operations: expected one or more"),
        ({"detector": "fcos_r18_fpn", "nodes": 0}, "space.cells.nodes: expected 1 to 8, got 0"),
        ({"detector": "fcos_r18_fpn", "nodes": "3"}, "space.cells.nodes: expected an integer, got '3'"),
        ({"detector": "fcos_r18_fpn", "inputs": True}, "space.cells.inputs: expected an integer, got True"),
    ],
)
def test_refusals_name_the_field(section: Any, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_space({"cells": section})
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_cells_stand_alone() -> None:
    with pytest.raises(RecipeError, match="space: expected cells alone, got cells beside input"):
        read_space({"cells": {"detector": "fcos_r18_fpn"}, "input": ["512x512"]})
