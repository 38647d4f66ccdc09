from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.listed import ListedSpace
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spaces.structural import StructuralSpace
from detsearch.errors import RecipeError
from tests.contracts.space_contract import SpaceContract

LIST = [
    "retinanet_r18_fpn@512x512",
    "resnet18/fpn(levels=3-4-5)/retinanet@512x512",
    "retinanet_slim",
    "retinanet_slim@128x128",
]


class TestListedSpace(SpaceContract):
    @pytest.fixture
    def space(self) -> Space:
        return ListedSpace.from_entries(LIST)


def test_members_come_in_the_order_of_the_list_and_as_codes() -> None:
    space = read_space({"detectors": LIST})
    assert isinstance(space, ListedSpace)
    assert next(iter(space.all())).network == parse_detector(space.to_choices()["detectors"][0]).network
    assert [format_detector(spec) for spec in space.all()] == space.to_choices()["detectors"]
    assert read_space(space.to_choices()) == space


def test_a_list_of_one_has_no_neighbours() -> None:
    space = ListedSpace.from_entries(LIST[:1])
    (only,) = space.all()
    assert list(space.neighbours(only)) == []
    assert space.mutate(only, np.random.default_rng(0)) == only


def test_without_a_list_the_space_is_structural() -> None:
    assert isinstance(read_space({"input": ["512x512"], "backbone": ["resnet18"]}), StructuralSpace)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"detectors": LIST, "input": ["512x512"]}, "space: expected detectors alone, got detectors beside input"),
        ({"detectors": []}, "space.detectors: expected a list of one or more detectors, got []"),
        ({"detectors": "retinanet_slim"}, "space.detectors: expected a list"),
        ({"detectors": [7]}, "space.detectors[0]: expected a preset or a detector's code, got 7"),
        ({"detectors": ["retinanet_slim", "resnet18/fpn/retinanet"]}, "space.detectors[1]: expected a preset"),
        ({"detectors": ["retinanet_slm"]}, "did you mean retinanet_slim?"),
        ({"detectors": ["retinanet_slim", "retinanet_slim@320x256"]}, "every detector once"),
        (3, "space: expected lists"),
    ],
)
def test_refusals_name_the_entry(section: Any, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_space(section)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
