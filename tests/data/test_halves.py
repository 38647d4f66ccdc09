from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detsearch.data.dataset import Dataset, ImageRecord
from detsearch.data.halves import SAMPLE, copies, halves, missing_classes, shared_images
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


def test_the_hint_helps() -> None:
    """A batch that is smaller where there is one that fits, images where there is none."""
    with pytest.raises(DataError, match=r"got 3 in one; lower the batch to 3, or add images$"):
        halves(dataset(*(record(i, 0) for i in range(7))), 0, least=4)
    for single in (dataset(record(0, 0)), dataset(record(0, 0), record(1, 0, path="/nowhere/0.jpg")), dataset()):
        with pytest.raises(DataError, match=r"got 0 in one; add images: it has no two different ones$"):
            halves(single, 0, least=1)


def test_an_image_under_two_names_is_in_one_half(tmp_path: Path) -> None:
    """A copy, a hard link and a link of each of four images."""
    records = []
    for number in range(4):
        first = tmp_path / f"{number}.jpg"
        first.write_bytes(bytes([number]) * 50)
        (tmp_path / f"copy-{number}.jpg").write_bytes(first.read_bytes())
        os.link(first, tmp_path / f"hard-{number}.jpg")
        (tmp_path / f"soft-{number}.jpg").symlink_to(first)
        records += [
            record(4 * number + i, 0, path=str(tmp_path / f"{name}{number}.jpg"))
            for i, name in enumerate(("", "copy-", "hard-", "soft-"))
        ]
    for seed in range(5):
        first_half, second = halves(dataset(*records), seed, least=1)
        contents = [{r.path.read_bytes() for r in half.records} for half in (first_half, second)]
        assert not contents[0] & contents[1]
        assert len(first_half) == len(second) == 8
        assert not shared_images(first_half, second)
    assert shared_images(dataset(*records[:2]), dataset(*records[1:4])) == {tmp_path / "copy-0.jpg", tmp_path / "0.jpg"}


def test_copies_are_told_by_all_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same size, of the same middle, and at last of the same content; only those read whole that may be."""
    middle = b"m" * (2 * SAMPLE)
    contents = {
        "a": b"1" + middle + b"1",
        "b": b"2" + middle + b"1",
        "c": b"1" + middle + b"1",
        "other middle": b"1" + b"n" * (2 * SAMPLE) + b"1",
        "longer": b"1" + middle + b"11",
        "empty": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")  # which nobody writes to
    digested: list[str] = []
    from detsearch.data import halves as module

    digest = module._digest

    def counted(path: Path) -> bytes:
        digested.append(path.name)
        return digest(path)

    monkeypatch.setattr(module, "_digest", counted)
    names = [*contents, "pipe", "missing"]
    assert copies([tmp_path / name for name in names]) == {tmp_path / "c": tmp_path / "a"}
    assert digested == ["a", "b", "c"]


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
