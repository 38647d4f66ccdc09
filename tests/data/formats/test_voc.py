"""The Pascal VOC reader: the corner convention, and each defect by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from defusedxml.ElementTree import fromstring

from detsearch.data.defects import Action, Kind
from detsearch.data.formats import voc as reader
from detsearch.errors import DataError
from tests.data.makers import datafile, save_image, voc, voc_object, voc_xml

DOG = voc_object("dog", (1, 1, 40, 30))


def test_corners_start_at_one_and_include_the_last_pixel(tmp_path: Path) -> None:
    objects = DOG + voc_object("cat", (3, 4, 10, "12.0"), difficult=1)
    data = voc(tmp_path, voc_xml(objects)).split("train")
    (record,) = data.records
    assert record.boxes.tolist() == [[0, 0, 40, 30], [2, 3, 10, 12]]
    assert data.classes == ("cat", "dog")  # discovered, sorted
    assert record.labels.tolist() == [1, 0]
    assert record.difficult.tolist() == [False, True]
    assert not record.crowd.any()
    assert record.area.tolist() == [1200, 72]
    assert record.load().shape == (3, 30, 40)


def test_classes_of_one_split_hold_for_all(tmp_path: Path) -> None:
    voc(tmp_path, voc_xml(DOG))
    root = tmp_path / "set"
    save_image(root / "JPEGImages" / "b.png", 40, 30)
    (root / "Annotations" / "b.xml").write_text(voc_xml(voc_object("ant", (1, 1, 5, 5)), "b.png"))
    (root / "ImageSets" / "Main" / "val.txt").write_text("b  1\n\n")  # with the flag of a class list
    data = datafile(tmp_path, "format: voc\nroot: set\nsplits: {train: train, val: [val], all: [train, val]}\n")
    assert data.split("train").classes == data.split("val").classes == ("ant", "dog")
    assert data.split("val").records[0].path.name == "b.png"
    assert len(data.split("train+val")) == len(data.split("all")) == 2
    assert [record.image_id for record in data.split("train+val").records] == [1, 2]


def test_size_is_taken_from_the_file_where_the_annotation_has_none(tmp_path: Path) -> None:
    for size in (None, (0, 0)):
        (record,) = voc(tmp_path, voc_xml(DOG, size=size)).split("train").records
        assert (record.width, record.height) == (40, 30)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<annotation><filename>&b;</filename></annotation>"
)
FETCH = (
    '<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    "<annotation><filename>&a;</filename></annotation>"
)

IMAGE_FAULTS = {
    "bomb": (BOMB, Kind.MALFORMED, "entities"),
    "external entity": (FETCH, Kind.MALFORMED, "entities"),
    "not xml": ("<annotation>", Kind.MALFORMED, "no XML"),
    "empty": ("", Kind.MALFORMED, "no XML"),
    "strange encoding": ('<?xml version="1.0" encoding="nonsense"?><annotation/>', Kind.MALFORMED, "no XML"),
    "other xml": ("<html/>", Kind.MALFORMED, "root element 'annotation'"),
    "absolute path": (voc_xml(DOG, "/etc/passwd"), Kind.PATH_OUTSIDE, "/etc/passwd"),
    "climbing path": (voc_xml(DOG, "../../a.jpg"), Kind.PATH_OUTSIDE, "../../a.jpg"),
    "other size": (
        voc_xml(voc_object("dog", (1, 1, 9, 9)), size=(30, 40)),
        Kind.SIZE_MISMATCH,
        "EXIF orientation is not applied",
    ),
}


@pytest.mark.parametrize("name", IMAGE_FAULTS)
def test_image_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    xml, kind, detail = IMAGE_FAULTS[name]
    _, (defect,) = voc(tmp_path, xml, "classes: [dog]").inspect("train")
    assert (defect.kind, defect.action) == (kind, Action.ERROR)
    assert detail in defect.detail
    assert "a" in defect.where
    dataset, (defect,) = voc(tmp_path, xml, "classes: [dog]\non_defect: skip").inspect("train")
    assert defect.action is Action.SKIPPED_IMAGE
    assert len(dataset) == 0


def test_list_that_names_what_is_not_there(tmp_path: Path) -> None:
    data = voc(tmp_path, voc_xml(DOG), "on_defect: skip", names="a\nb\na\n../../x\n")
    dataset, defects = data.inspect("train")
    assert [defect.kind for defect in defects] == [Kind.MALFORMED, Kind.DUPLICATE_ID, Kind.PATH_OUTSIDE]
    assert len(dataset) == 1


def test_missing_image(tmp_path: Path) -> None:
    for size in ((40, 30), None):
        data = voc(tmp_path, voc_xml(DOG, size=size))
        (tmp_path / "set" / "JPEGImages" / "a.jpg").unlink()
        with pytest.raises(DataError, match="missing image"):
            data.split("train")


@pytest.mark.parametrize(
    ("box", "kind", "action"),
    [
        ((5, 5, 5, 9), Kind.NO_AREA, Action.SKIPPED_BOX),
        ((5, 9, 7, 9), Kind.NO_AREA, Action.SKIPPED_BOX),
        ((9, 5, 5, 9), Kind.NO_AREA, Action.SKIPPED_BOX),
        ((60, 5, 70, 9), Kind.OUTSIDE, Action.SKIPPED_BOX),
        ((0, 5, 9, 9), Kind.OUTSIDE, Action.CLIPPED_BOX),
        ((5, 5, 9, 31), Kind.OUTSIDE, Action.CLIPPED_BOX),
        (("x", 5, 9, 9), Kind.MALFORMED, Action.ERROR),
        (("inf", 5, 9, 9), Kind.MALFORMED, Action.ERROR),
        (("", 5, 9, 9), Kind.MALFORMED, Action.ERROR),
    ],
)
def test_boxes_that_do_not_fit(
    tmp_path: Path, box: tuple[object, object, object, object], kind: Kind, action: Action
) -> None:
    dataset, (defect,) = voc(tmp_path, voc_xml(DOG + voc_object("dog", box))).inspect("train")
    assert (defect.kind, defect.action) == (kind, action)
    assert len(dataset.records[0].boxes) == (2 if action is Action.CLIPPED_BOX else 1)


def test_name_outside_the_given_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown category: 'dog' is not in 'classes'"):
        voc(tmp_path, voc_xml(DOG), "classes: [cat]").split("train")


def test_no_classes_anywhere(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="to find the classes, got none"):
        voc(tmp_path, voc_xml("")).split("train")


def test_list_that_is_missing_empty_or_outside(tmp_path: Path) -> None:
    voc(tmp_path, voc_xml(DOG))
    for split, message in (("none", r"splits\.train: expected a readable list"), ("../x", "paths below this folder")):
        with pytest.raises(DataError, match=message):
            datafile(tmp_path, f"format: voc\nroot: set\nclasses: [dog]\nsplits: {{train: {split}}}\n").split("train")
    with pytest.raises(DataError, match=r"splits\.train: expected at least one usable image, got none"):
        voc(tmp_path, voc_xml(DOG), "classes: [dog]", names="\n").split("train")


def test_each_annotation_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voc(tmp_path, voc_xml(DOG))
    data = datafile(tmp_path, "format: voc\nroot: set\nsplits: {train: train, val: [train]}\n")
    parsed: list[bytes] = []
    monkeypatch.setattr(reader, "fromstring", lambda text: parsed.append(text) or fromstring(text))
    for split in (*data.splits, "train+val"):
        assert data.split(split).classes == ("dog",)
    assert len(parsed) == 1


def test_an_annotation_that_is_huge(tmp_path: Path) -> None:
    data = voc(tmp_path, voc_xml(DOG), "classes: [dog]")
    with (tmp_path / "set" / "Annotations" / "a.xml").open("r+b") as file:
        file.truncate(1 << 40)
    _, (defect,) = data.inspect("train")
    assert (defect.kind, defect.action) == (Kind.MALFORMED, Action.ERROR)
    assert "at most 32 MiB" in defect.detail


def test_bccd(bccd: Path, tmp_path: Path) -> None:
    data = datafile(tmp_path, f"format: voc\nroot: {bccd}\nsplits: {{train: train, val: val, test: test}}\n")
    counts, empty = {}, []
    for split in data.splits:
        dataset, defects = data.inspect(split)
        counts[split] = len(dataset), sum(len(record.labels) for record in dataset.records)
        assert {(defect.kind, defect.action) for defect in defects} <= {(Kind.NO_AREA, Action.SKIPPED_BOX)}
        empty += [defect.where.split("/")[-1].split(":")[0] for defect in defects]
    assert {split: count[0] for split, count in counts.items()} == {"train": 205, "val": 87, "test": 72}
    assert sum(count[1] for count in counts.values()) == 4888 - 2
    assert sorted(empty) == ["BloodImage_00338.xml", "BloodImage_00343.xml"]
    assert data.split("train+val").classes == ("Platelets", "RBC", "WBC")
