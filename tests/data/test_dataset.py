"""Subsets and merged splits."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from detsearch.data.dataset import Dataset
from detsearch.errors import DataError
from tests.data.makers import dataset, record, save_image


def test_subset_keeps_order() -> None:
    whole = dataset(*(record(Path(f"{i}"), 4, 4, [], image_id=i) for i in range(5)))
    assert [r.image_id for r in whole.subset([3, 1]).records] == [3, 1]


def test_merge_keeps_unique_ids_and_each_image_once() -> None:
    first = dataset(record(Path("a"), 4, 4, [], 10), record(Path("b"), 4, 4, [], 11))
    second = dataset(record(Path("b"), 4, 4, [], 11), record(Path("c"), 4, 4, [], 3), split="val")
    merged = Dataset.merge([first, second])
    assert merged.split == "train+val"
    assert [(r.image_id, r.path.name) for r in merged.records] == [(10, "a"), (11, "b"), (3, "c")]


def test_merge_renumbers_where_ids_collide() -> None:
    first = dataset(record(Path("a"), 4, 4, [], 1), record(Path("b"), 4, 4, [], 2))
    merged = Dataset.merge([first, dataset(record(Path("c"), 4, 4, [], 1))])
    assert [r.image_id for r in merged.records] == [1, 2, 3]


def test_merge_refuses_other_classes() -> None:
    with pytest.raises(DataError, match="splits train and val: expected the same classes, got a difference in b, c"):
        Dataset.merge([dataset(), dataset(split="val", classes=("a", "c"))])
    with pytest.raises(DataError, match="their order"):
        Dataset.merge([dataset(), dataset(classes=("b", "a"))])


def test_record_loads_and_notices_a_changed_file(tmp_path: Path) -> None:
    path = save_image(tmp_path / "x.png", 6, 4)
    loaded = pickle.loads(pickle.dumps(record(path, 6, 4, [[0, 0, 2, 2]])))  # noqa: S301 (as workers get it)
    assert loaded.load().shape == (3, 4, 6)
    save_image(path, 5, 4)
    with pytest.raises(DataError, match="expected 6x4 pixels as annotated, got 5x4"):
        loaded.load()
