"""What would fail every training is said before time is spent, by the field of the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from detsearch.errors import DataError
from detsearch.runs.checks import load_splits
from detsearch.runs.recipe import override
from detsearch.runs.settings import TrainRecipe
from tests.runs.conftest import TINY


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.test=tset"], r"data\.test: .*, got 'tset'; name one of them, or none: --set data\.test=null$"),
        (["data.val=valid"], r"data\.val: .*, got 'valid'; name one of them$"),
        (["data.train=train+extra"], r"data\.train: .*, got 'extra'; name one of them$"),
        (["data.val=''"], r"data\.val: .*, got ''"),
    ],
)
def test_a_split_that_is_not_there_is_named_by_its_field(settings: list[str], message: str, data_file: Path) -> None:
    recipe = override(TrainRecipe, {"detector": TINY, "data": {"file": str(data_file)}}, settings)
    with pytest.raises(DataError, match=message) as caught:
        load_splits(recipe, masks=False)
    assert f"expected a split of {data_file} (test, train, val)" in str(caught.value)


def test_splits_may_be_joined_and_test_left_out(data_file: Path) -> None:
    raw = {"detector": TINY, "data": {"file": str(data_file), "train": "train+test", "test": None}}
    found = load_splits(override(TrainRecipe, raw, ()), masks=False)
    assert {name: len(dataset) for name, dataset in found.items()} == {"train+test": 12, "val": 4}
