from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detsearch.data.dataset import Dataset, ImageRecord
from detsearch.data.halves import halves, missing_classes
from detsearch.errors import DataError


def record(number: int, *labels: int, path: str | None = None) -> ImageRecord:
    count = len(labels)
    return ImageRecord(
        image_id=number,
        path=Path(path or f"/nowhere/{number}.jpg"),
        width=40,
        height=30,
        boxes=np.tile(np.array([1, 1, 9, 9], np.float32), (count, 1)),
        labels=np.array(labels, np.int64),
        area=np.full(count, 64, np.float32),
        crowd=np.zeros(count, np.bool_),
        difficult=np.zeros(count, np.bool_),
    )


def dataset(*records: ImageRecord) -> Dataset:
    return Dataset(name="made", split="train", classes=("dog", "cat"), category_ids=(1, 2), records=records)


@given(st.lists(st.integers(0, 12), min_size=8, max_size=40), st.integers(0, 2**32 - 1))
def test_every_image_is_in_one_half_and_no_file_in_both(files: list[int], seed: int) -> None:
    made = dataset(*(record(i, 0, path=f"/nowhere/{file}.jpg") for i, file in enumerate(files)))
    if len(set(files)) < 2:
        with pytest.raises(DataError, match="two halves"):
            halves(made, seed, least=1)
        return
    first, second = halves(made, seed, least=1)
    assert sorted(r.image_id for part in (first, second) for r in part.records) == list(range(len(files)))
    assert not {r.path for r in first.records} & {r.path for r in second.records}
    groups = [len({r.path for r in part.records}) for part in (first, second)]
    assert groups[0] - groups[1] in (0, 1)


def test_the_seed_decides() -> None:
    made = dataset(*(record(i, 0) for i in range(20)))
    ids = [[[r.image_id for r in part.records] for part in halves(made, seed, least=1)] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_too_few_images() -> None:
    made = dataset(*(record(i, 0) for i in range(7)))
    halves(made, 0, least=3)
    with pytest.raises(DataError, match=r"made: split train: expected two halves of 4 .*got 3 in one"):
        halves(made, 0, least=4)


def test_objects_in_both_halves() -> None:
    one = record(0, 0)
    crowd = replace(record(1, 0), crowd=np.array([True]))
    for empty in (record(1), crowd):
        with pytest.raises(DataError, match="objects to learn from in both halves"):
            halves(dataset(one, empty), 0, least=1)


def test_missing_classes() -> None:
    crowd = replace(record(1, 1), crowd=np.array([True]))
    assert missing_classes(dataset(record(0, 0), crowd)) == ("cat",)
    assert missing_classes(dataset(record(0, 0, 1))) == ()
    assert missing_classes(dataset(record(0))) == ("dog", "cat")
