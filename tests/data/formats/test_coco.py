"""The COCO reader: sound data in full, each defect by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detsearch.data.check import check
from detsearch.data.convert import convert
from detsearch.data.datafile import load_datafile
from detsearch.data.defects import Action, Kind
from detsearch.data.masks import RunLengths, decode
from detsearch.errors import DataError
from tests.data.makers import coco, coco_content, datafile, save_image


def test_sound_data_arrive_whole(tmp_path: Path) -> None:
    data = coco(tmp_path).split("train")
    assert (data.classes, data.category_ids) == (("cat", "dog"), (3, 18))
    first, second = data.records
    assert (first.image_id, first.width, first.height) == (7, 40, 30)
    assert first.boxes.tolist() == [[2, 3, 12, 15], [0, 0, 40, 30]]
    assert first.labels.tolist() == [1, 0]
    assert first.area.tolist() == [77.5, 900]
    assert first.crowd.tolist() == [False, True]
    assert not first.difficult.any()
    assert first.load().shape == (3, 30, 40)
    assert second.boxes.shape == (0, 4)  # an image without boxes is kept
    assert second.load().shape == (3, 50, 20)


def test_classes_select_and_order(tmp_path: Path) -> None:
    data = coco(tmp_path, extra="classes: [dog]").split("train")
    assert (data.classes, data.category_ids) == (("dog",), (18,))
    assert data.records[0].labels.tolist() == [0]
    with pytest.raises(DataError, match=r"classes: expected categories of ann\.json, got cow"):
        coco(tmp_path, extra="classes: [dog, cow]").split("train")


def test_ignore_is_difficult(tmp_path: Path) -> None:
    data = coco(tmp_path, _set("annotations", 0, ignore=1)).split("train")
    assert data.records[0].difficult.tolist() == [True, False]


def _set(section: str, index: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[section][index].update(values)


def _repeat(section: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[section].append(dict(content[section][0]))


FAULTS = {
    "undefined category": (_set("annotations", 0, category_id=4), Kind.UNKNOWN_CATEGORY, Action.SKIPPED_BOX),
    "category of another type": (_set("annotations", 0, category_id="dog"), Kind.UNKNOWN_CATEGORY, Action.SKIPPED_BOX),
    "undefined image": (_set("annotations", 0, image_id=1), Kind.UNKNOWN_IMAGE, Action.SKIPPED_BOX),
    "annotation id twice": (_set("annotations", 1, id=1), Kind.DUPLICATE_ID, Action.SKIPPED_BOX),
    "box of three": (_set("annotations", 0, bbox=[1, 2, 3]), Kind.MALFORMED, Action.SKIPPED_BOX),
    "box of text": (_set("annotations", 0, bbox=[1, 2, 3, "4"]), Kind.MALFORMED, Action.SKIPPED_BOX),
    "box not finite": (_set("annotations", 0, bbox=[1, 2, 3, float("nan")]), Kind.MALFORMED, Action.SKIPPED_BOX),
    "box beyond floats": (_set("annotations", 0, bbox=[1, 2, 3, 10**400]), Kind.MALFORMED, Action.SKIPPED_BOX),
    "no box": (lambda c: c["annotations"][0].pop("bbox"), Kind.MALFORMED, Action.SKIPPED_BOX),
    "image id twice": (_repeat("images"), Kind.DUPLICATE_ID, Action.SKIPPED_IMAGE),
    "no width": (lambda c: c["images"][1].pop("width"), Kind.MALFORMED, Action.SKIPPED_IMAGE),
    "image without file_name": (_set("images", 1, file_name=None), Kind.MALFORMED, Action.SKIPPED_IMAGE),
    "missing file": (_set("images", 1, file_name="c.png"), Kind.MISSING_IMAGE, Action.SKIPPED_IMAGE),
    "other size": (_set("images", 1, width=50, height=20), Kind.SIZE_MISMATCH, Action.SKIPPED_IMAGE),
    "climbing path": (_set("images", 1, file_name="../../x.png"), Kind.PATH_OUTSIDE, Action.SKIPPED_IMAGE),
    "absolute path": (_set("images", 1, file_name="/etc/passwd"), Kind.PATH_OUTSIDE, Action.SKIPPED_IMAGE),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_an_error_or_skipped_as_the_data_file_says(tmp_path: Path, name: str) -> None:
    change, kind, skipped = FAULTS[name]
    strict = coco(tmp_path, change)
    _, defects = strict.inspect("train")
    assert [(defect.kind, defect.action) for defect in defects] == [(kind, Action.ERROR)]
    with pytest.raises(DataError, match=rf"{kind}.*detsearch data check"):
        strict.split("train")

    lenient = coco(tmp_path, change, "on_defect: skip")
    _, defects = lenient.inspect("train")
    assert [(defect.kind, defect.action) for defect in defects] == [(kind, skipped)]
    data = lenient.split("train")
    images, boxes = len(data), sum(len(record.labels) for record in data.records)
    if skipped is Action.SKIPPED_BOX:
        assert (images, boxes) == (2, 1)
    else:
        assert (images, boxes) == (2 if kind is Kind.DUPLICATE_ID else 1, 2)


def test_objects_of_a_skipped_image_go_with_it(tmp_path: Path) -> None:
    data = coco(tmp_path, _set("images", 0, file_name="../a.jpg"), "on_defect: skip")
    dataset, defects = data.inspect("train")
    assert [record.image_id for record in dataset.records] == [9]
    assert [defect.kind for defect in defects] == [Kind.PATH_OUTSIDE]


@pytest.mark.parametrize(
    ("box", "kind", "action", "left"),
    [
        ([5, 5, 0, 4], Kind.NO_AREA, Action.SKIPPED_BOX, None),
        ([5, 5, 4, -1], Kind.NO_AREA, Action.SKIPPED_BOX, None),
        ([40, 0, 5, 5], Kind.OUTSIDE, Action.SKIPPED_BOX, None),
        ([-9, -9, 5, 5], Kind.OUTSIDE, Action.SKIPPED_BOX, None),
        ([8, 8, 1e-30, 5], None, None, None),
        ([-2, 20, 10, 20], Kind.OUTSIDE, Action.CLIPPED_BOX, [0, 20, 8, 30]),
        ([0, 0, 40.05, 30], None, None, [0, 0, 40, 30]),
    ],
)
def test_boxes_that_do_not_fit(
    tmp_path: Path, box: list[float], kind: Kind | None, action: Action | None, left: list[float] | None
) -> None:
    data = coco(tmp_path, lambda content: content.update(annotations=[content["annotations"][0] | {"bbox": box}]))
    dataset, defects = data.inspect("train")
    if kind is not None:
        assert [(defect.kind, defect.action) for defect in defects] == [(kind, action)]
    found = data.split("train").records[0].boxes.tolist()  # never an error
    assert found == ([] if left is None else [left])
    assert len(dataset) == 2


def test_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    outside = save_image(tmp_path / "secret.png", 20, 50)
    data = coco(tmp_path)
    (tmp_path / "set" / "img" / "b.png").unlink()
    (tmp_path / "set" / "img" / "b.png").symlink_to(outside)
    with pytest.raises(DataError, match="path leaves the data root"):
        data.split("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected COCO JSON, got what is no JSON"),
        ("[" * 100_000, "expected COCO JSON, got what is no JSON"),
        ("\xff\xfe", "expected COCO JSON, got what is no JSON"),
        ("[1]", "expected COCO JSON with the lists images, annotations, categories, got a JSON list"),
        ('{"images": [], "annotations": {}}', "got no list annotations, categories"),
        ('{"images": [], "annotations": [], "categories": []}', r"categories: expected at least one, got none"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": "x"}]}',
            r"categories\[0\]: expected an integer 'id'",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "no other",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            r"splits.train: expected at least",
        ),
        (
            '{"images": [3, null], "annotations": [[]], "categories": [{"id": 1, "name": "a"}]}',
            r"images\[0\]: expected",
        ),
    ],
)
def test_json_that_is_not_coco(tmp_path: Path, content: str, message: str) -> None:
    data = coco(tmp_path)
    (tmp_path / "set" / "ann.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message) as caught:
        data.split("train")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("{images: img, annotations: none.json}", r"none\.json: expected a COCO JSON file, got No such file"),
        ("{images: none, annotations: ann.json}", r"splits\.train\.images: expected a folder"),
        ("{images: img, annotations: ../ann.json}", "paths below this folder"),
        ("{images: /tmp, annotations: ann.json}", "paths below this folder"),
    ],
)
def test_places_that_do_not_exist(tmp_path: Path, where: str, message: str) -> None:
    coco(tmp_path)
    with pytest.raises(DataError, match=message):
        datafile(tmp_path, f"format: coco\nroot: set\nsplits:\n  train: {where}\n").split("train")


@pytest.mark.parametrize("name", ["", " dog", "a\nb", "a\0", "\x1b[31mdog", "\ud800dog"])
def test_class_names_that_text_files_and_terminals_cannot_hold(tmp_path: Path, name: str) -> None:
    def change(content: dict[str, Any]) -> None:
        content["categories"][0]["name"] = name

    with pytest.raises(DataError, match=r"class names that are printable, without spaces around them, got '") as caught:
        coco(tmp_path, change).split("train")
    assert str(caught.value).isprintable()
    (split,) = check(coco(tmp_path, change)).splits.values()
    assert [defect.kind for defect in split.defects] == [Kind.UNUSABLE_SPLIT]
    assert coco(tmp_path, change, "classes: [cat]").split("train").classes == ("cat",)  # the others are left out


def test_an_image_name_that_no_file_can_have(tmp_path: Path) -> None:
    data = coco(tmp_path, lambda content: content["images"][1].update(file_name="\ud800.jpg"))
    _, (defect,) = data.inspect("train")
    assert defect.kind is Kind.PATH_OUTSIDE


def test_splits_with_other_categories_are_refused(tmp_path: Path) -> None:
    coco(tmp_path)
    other = coco_content() | {"annotations": [], "categories": [{"id": 18, "name": "dog"}]}
    (tmp_path / "set" / "val.json").write_text(json.dumps(other))
    data = datafile(
        tmp_path,
        "format: coco\nroot: set\nsplits:\n"
        "  train: {images: img, annotations: ann.json}\n  val: {images: img, annotations: val.json}\n",
    )
    data.split("train")
    with pytest.raises(DataError, match="the same classes, got a difference in cat"):
        data.split("val")


POLYGON = [[2, 3, 12, 3, 12, 15]]
RLE = {"size": [30, 40], "counts": [0, 1200]}


def _outlined(first: object = None, second: object = None) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for item, outline in zip(content["annotations"], (first, second), strict=True):
            item["segmentation"] = outline

    return change


def test_outlines_are_read_for_who_asks(tmp_path: Path) -> None:
    data = coco(tmp_path, _outlined(POLYGON, RLE))
    assert not data.split("train").has_masks
    dataset = data.split("train", masks=True)
    assert dataset.has_masks
    first, second = dataset.records
    assert first.segmentations is not None
    masks = decode(first.segmentations, (40, 30))  # type: ignore[arg-type]
    assert masks[0, 3:15, 2:12].any()
    assert masks[0].sum() == masks[0, 3:15, 2:12].sum() > 50
    assert masks[1].all()
    assert second.outlined().shape == (0,)
    assert not coco(tmp_path).split("train", masks=True).has_masks


def test_splits_with_masks_and_without_are_not_joined(tmp_path: Path) -> None:
    coco(tmp_path, _outlined(POLYGON, RLE))
    (tmp_path / "set" / "bare.json").write_text(json.dumps(coco_content()))
    splits = "".join(f"  {name}: {{images: img, annotations: {name}.json}}\n" for name in ("ann", "bare"))
    data = datafile(tmp_path, f"format: coco\nroot: set\nsplits:\n{splits}")
    assert len(data.split("ann+bare")) == 2
    with pytest.raises(
        DataError, match=r"splits ann\+bare: expected masks in every split or in none, got none in bare"
    ):
        data.split("ann+bare", masks=True)


MASK_FAULTS = {
    "two points": (_outlined([[1, 1, 5, 5]], RLE), Kind.MALFORMED_MASK, "three points"),
    "size of another image": (_outlined(POLYGON, RLE | {"size": [40, 30]}), Kind.MALFORMED_MASK, "[30, 40]"),
    "no mask": (_outlined(POLYGON), Kind.MISSING_MASK, "no segmentation"),
    "empty list": (_outlined([], RLE), Kind.MISSING_MASK, "no segmentation"),
}


@pytest.mark.parametrize("name", MASK_FAULTS)
def test_defects_of_masks_matter_to_who_asks_for_masks(tmp_path: Path, name: str) -> None:
    change, kind, detail = MASK_FAULTS[name]
    strict = coco(tmp_path, change)
    assert len(strict.split("train").records[0].boxes) == 2
    dataset, (defect,) = strict.inspect("train", masks=True)
    assert (defect.kind, defect.action) == (kind, Action.MASK_ERROR)
    assert detail in defect.detail
    assert "annotations[" in defect.where
    assert len(dataset.records[0].boxes) == 2
    with pytest.raises(DataError, match=rf"{kind}.*detsearch data check"):
        strict.split("train", masks=True)

    lenient = coco(tmp_path, change, "on_defect: skip")
    assert [defect.action for defect in lenient.inspect("train", masks=True)[1]] == [Action.MASK_SKIPPED]
    assert len(lenient.split("train").records[0].boxes) == 2
    (record, _) = lenient.split("train", masks=True).records
    assert len(record.boxes) == len(record.labels) == len(record.area) == len(record.segmentations or ()) == 1
    assert record.outlined().all()


def test_tiny_coco(tiny_coco: Path, tmp_path: Path) -> None:
    data = datafile(
        tmp_path,
        f"format: coco\nroot: {tiny_coco}\nsplits:\n"
        "  train: {images: train2017, annotations: annotations/instances_train2017.json}\n"
        "  val: {images: val2017, annotations: annotations/instances_val2017.json}\n",
    )
    train, val, both = data.split("train"), data.split("val"), data.split("train+val")
    assert (len(train), len(val), len(both), len(both.classes)) == (50, 50, 100, 80)
    assert (both.classes[0], both.classes[79], both.category_ids[79]) == ("person", "toothbrush", 90)
    assert [sum(len(r.labels) for r in part.records) for part in (train, val)] == [470, 382]
    assert [sum(int(r.crowd.sum()) for r in part.records) for part in (train, val)] == [5, 5]
    assert [sum(len(r.labels) == 0 for r in part.records) for part in (train, val)] == [1, 2]
    raw = json.loads((tiny_coco / "annotations" / "instances_val2017.json").read_text())
    record = val.records[0]
    stated = [a for a in raw["annotations"] if a["image_id"] == record.image_id]
    x, y, w, h = np.array([a["bbox"] for a in stated]).T
    np.testing.assert_allclose(record.boxes, np.stack([x, y, x + w, y + h], axis=1), rtol=1e-6)
    assert [both.category_ids[label] for label in record.labels] == [a["category_id"] for a in stated]
    for record in data.split("val", masks=True).records:
        for outline, crowd in zip(record.segmentations or (), record.crowd, strict=True):
            assert isinstance(outline, RunLengths) == crowd


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    synthetic = datafile(tmp_path, "format: synthetic\nsplits: {train: {images: 4, seed: 3}}\n")
    original = synthetic.split("train", masks=True)
    assert convert(synthetic, "coco", tmp_path / "out").lost == {}
    again = load_datafile(tmp_path / "out" / "dataset.yaml").split("train", masks=True)
    assert (again.classes, again.category_ids) == (original.classes, original.category_ids)
    for one, other in zip(original.records, again.records, strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.area, other.area)
        assert one.segmentations == other.segmentations
        assert one.load().equal(other.load())
