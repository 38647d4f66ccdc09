"""The check lists everything and raises nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detsearch.data.check import check
from detsearch.data.defects import Action, Kind
from tests.data.makers import coco, datafile


def test_counts_of_sound_data(tmp_path: Path) -> None:
    report = check(coco(tmp_path))
    split = report.splits["train"]
    assert report.usable
    assert (split.images, split.images_without_boxes, split.boxes, split.crowd, split.difficult) == (2, 1, 2, 1, 0)
    assert split.per_class == {"cat": 1, "dog": 1}
    assert split.sizes == {"small": 2, "medium": 0, "large": 0}
    assert split.defects == ()
    assert split.masks == 0
    assert "masks" not in "".join(report.lines())


def test_masks_are_counted_and_their_defects_do_not_keep_boxes_from_use(tmp_path: Path) -> None:
    def outline(content: dict[str, Any]) -> None:
        content["annotations"][0]["segmentation"] = [[2, 3, 12, 3, 12, 15]]

    report = check(coco(tmp_path, outline))
    split = report.splits["train"]
    assert report.usable
    assert (split.boxes, split.masks) == (2, 1)
    assert [(defect.kind, defect.action) for defect in split.defects] == [(Kind.MISSING_MASK, Action.MASK_ERROR)]
    text = "\n".join(report.lines())
    assert "2 boxes, 1 masks" in text
    assert "error where masks are used" in text


def test_sizes_are_cocos(tmp_path: Path) -> None:
    def areas(content: dict[str, Any]) -> None:
        box = content["annotations"][0]
        values = (1023, 1024, 9215, 9216)
        content["annotations"] = [box | {"id": i, "area": area} for i, area in enumerate(values)]

    assert check(coco(tmp_path, areas)).splits["train"].sizes == {"small": 1, "medium": 2, "large": 1}


def test_every_defect_is_listed_at_once(tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["annotations"][0]["category_id"] = 4
        content["annotations"].append({"id": 5, "image_id": 7, "category_id": 3, "bbox": [0, 0, 0, 0]})
        content["images"].append({"id": 10, "file_name": "none.jpg", "width": 9, "height": 9})

    data = coco(tmp_path, spoil)
    image = tmp_path / "set" / "img" / "b.png"
    content = bytearray(image.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 30] = bytes(30)  # only decoding finds this
    image.write_bytes(content)
    report = check(data)
    assert {(defect.kind, defect.action) for defect in report.splits["train"].defects} == {
        (Kind.UNKNOWN_CATEGORY, Action.ERROR),
        (Kind.NO_AREA, Action.SKIPPED_BOX),
        (Kind.MISSING_IMAGE, Action.ERROR),
        (Kind.UNREADABLE_IMAGE, Action.ERROR),
    }
    assert not report.usable
    text = "\n".join(report.lines())
    assert "none.jpg: missing image" in text
    assert "(skipped box)" in text
    raw = json.loads(json.dumps(report.to_json()))
    assert raw["usable"] is False
    assert {defect["kind"] for defect in raw["splits"]["train"]["defects"]} >= {"missing image", "box without area"}


def test_skipping_makes_it_usable(tmp_path: Path) -> None:
    report = check(coco(tmp_path, lambda c: c["images"][1].update(file_name="x.png"), "on_defect: skip"))
    assert report.usable
    assert report.splits["train"].images == 1


def test_splits_that_cannot_be_read_or_are_empty_or_differ(tmp_path: Path) -> None:
    def empty(content: dict[str, Any]) -> None:
        content["images"].clear()
        content["annotations"].clear()

    coco(tmp_path)
    root = tmp_path / "set"
    (root / "bad.json").write_text("[]")
    content = json.loads((root / "ann.json").read_text())
    (root / "other.json").write_text(json.dumps(content | {"categories": content["categories"][:1], "annotations": []}))
    empty(content)
    (root / "empty.json").write_text(json.dumps(content))
    names = ("ann", "bad", "empty", "other")
    splits = "".join(f"  {name}: {{images: img, annotations: {name}.json}}\n" for name in names)
    report = check(datafile(tmp_path, f"format: coco\nroot: set\nsplits:\n{splits}"))
    assert not report.usable
    kinds = {name: [defect.kind for defect in split.defects] for name, split in report.splits.items()}
    assert kinds == {"ann": [], **{name: [Kind.UNUSABLE_SPLIT] for name in names[1:]}}
