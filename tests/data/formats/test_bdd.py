"""The BDD100K reader: both forms of its JSON, its classes and their older names, each defect by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detsearch.data.defects import Action, Kind
from detsearch.data.formats.bdd import CLASSES
from detsearch.data.masks import encode
from detsearch.errors import DataError
from tests.data.makers import bdd, bdd_label, datafile, save_image


def test_sound_data_arrive_whole(tmp_path: Path) -> None:
    labels = [bdd_label(), bdd_label("traffic sign", (0.5, 1.25, 3.5, 4), attributes={"occluded": True, "crowd": True})]
    frames = [{"name": "b.jpg", "timestamp": 10000, "labels": labels}, {"name": "a.jpg"}]
    data = bdd(tmp_path, frames).split("train")
    assert data.classes == CLASSES
    assert data.category_ids == tuple(range(1, 11))
    first, second = data.records
    assert (first.image_id, first.path.name, first.width, first.height) == (1, "b.jpg", 40, 30)
    assert first.boxes.tolist() == [[2, 3, 12, 15], [0.5, 1.25, 4.5, 5]]  # the last pixel belongs to the object
    assert first.labels.tolist() == [2, 9]
    assert first.crowd.tolist() == [False, True]
    assert first.area.tolist() == [120, 15]
    assert second.boxes.shape == (0, 4)


@pytest.mark.parametrize("labels", [None, [], {}])
def test_frames_without_objects(tmp_path: Path, labels: object) -> None:
    (record,) = bdd(tmp_path, [{"name": "a.jpg"} | ({} if labels == {} else {"labels": labels})]).split("train").records
    assert len(record.labels) == 0


@pytest.mark.parametrize(
    ("category", "name", "crowd"),
    [
        ("person", "pedestrian", False),
        ("bike", "bicycle", False),
        ("motor", "motorcycle", False),
        ("van", "car", False),
        ("caravan", "car", False),
        ("other person", "pedestrian", True),
        ("other vehicle", "car", True),
        ("trailer", "truck", True),
        *((name, name, False) for name in CLASSES),
    ],
)
def test_categories_and_their_older_names(tmp_path: Path, category: str, name: str, crowd: bool) -> None:
    frames = [{"name": "a.jpg", "labels": [bdd_label(category)]}]
    (record,) = bdd(tmp_path, frames).split("train").records
    assert [CLASSES[label] for label in record.labels] == [name]
    assert record.crowd.tolist() == [crowd]
    (record,) = bdd(tmp_path, frames, f"classes: [x, {category}]").split("train").records  # what is named is meant
    assert (record.labels.tolist(), record.crowd.tolist()) == ([1], [False])
    assert len(bdd(tmp_path, frames, "classes: [x]").split("train").records[0].labels) == 0  # known, and left out


def test_lanes_and_areas_are_not_for_detectors(tmp_path: Path) -> None:
    shape = [{"vertices": [[0, 0], [3, 3]], "types": "LL", "closed": False}]
    labels = [
        {"category": "lane/road curb", "poly2d": shape, "box2d": None},
        {"category": "drivable area", "poly2d": shape},
        bdd_label(),
    ]
    (record,) = bdd(tmp_path, [{"name": "a.jpg", "labels": labels}]).split("train").records
    assert record.labels.tolist() == [2]


def _older(name: str, *objects: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "attributes": {}, "frames": [{"timestamp": 10000, "objects": list(objects)}]}


def test_the_older_form_a_file_for_each_image(tmp_path: Path) -> None:
    bdd(tmp_path, [])
    folder = tmp_path / "set" / "labels" / "100k" / "train"
    folder.mkdir(parents=True)
    (folder / "b.json").write_text(json.dumps(_older("b")))
    (folder / "a.json").write_text(json.dumps(_older("a", bdd_label("motor"), bdd_label("person", (1, 1, 4, 4)))))
    (folder / "readme.txt").write_text("none")
    text = "format: bdd\nroot: set\nsplits: {train: {images: images, labels: labels/100k/train}}\n"
    first, second = datafile(tmp_path, text).split("train").records
    assert [first.path.name, second.path.name] == ["a.jpg", "b.jpg"]
    assert [CLASSES[label] for label in first.labels] == ["motorcycle", "pedestrian"]
    assert len(second.labels) == 0


@pytest.mark.parametrize("wrap", [lambda frames: frames, lambda frames: {"frames": frames, "config": None}])
def test_nested_frames_in_one_file_and_scalabels_whole_dataset(tmp_path: Path, wrap: Any) -> None:
    frames = [_older("a", bdd_label()), {"name": "b.jpg", "labels": [bdd_label("bus")], "videoName": "v"}]
    data = bdd(tmp_path, wrap(frames)).split("train")
    assert [record.labels.tolist() for record in data.records] == [[2], [4]]
    (single,) = bdd(tmp_path, frames[0]).split("train").records
    assert single.labels.tolist() == [2]


def test_masks_as_polygons_and_as_run_lengths(tmp_path: Path) -> None:
    square = {"vertices": [[2, 3], [12, 3], [12, 15], [2, 15]], "types": "LLLL", "closed": True}
    mask = np.zeros((30, 40), dtype=np.bool_)
    mask[3:15, 2:12] = True
    rle = encode(mask).to_coco()
    labels = [
        bdd_label(poly2d=[square, square]),
        bdd_label(rle=rle),
        bdd_label(),
        bdd_label(poly2d=[square | {"types": "C"}]),
    ]
    data = bdd(tmp_path, [{"name": "a.jpg", "labels": labels}])
    dataset, defects = data.inspect("train", masks=True)
    assert dataset.records[0].segmentations is not None
    polygons, runs, none, curved = dataset.records[0].segmentations
    assert isinstance(polygons, tuple)
    np.testing.assert_allclose(polygons[1], square["vertices"])
    assert runs == encode(mask)
    assert none is None
    assert curved is None
    assert [(defect.kind, defect.where[-7:]) for defect in defects] == [
        (Kind.MALFORMED_MASK, "label 3"),
        (Kind.MISSING_MASK, "label 2"),
    ]
    assert data.split("train").records[0].segmentations is None


def test_the_size_that_is_stated_is_checked(tmp_path: Path) -> None:
    frame = {"name": "a.jpg", "size": {"width": 40, "height": 30}}
    assert len(bdd(tmp_path, [frame]).split("train")) == 1
    frame["size"] = {"width": 30, "height": 40}
    with pytest.raises(DataError, match="size contradicts the file"):
        bdd(tmp_path, [frame]).split("train")
    frame["size"] = {"width": "wide"}
    assert len(bdd(tmp_path, [frame]).split("train")) == 1


FRAMES: dict[str, tuple[Any, Kind, str]] = {
    "no name": ({"labels": []}, Kind.MALFORMED, "a text 'name'"),
    "no frame": (3, Kind.MALFORMED, "a text 'name'"),
    "labels of text": ({"name": "b.jpg", "labels": "x"}, Kind.MALFORMED, "a list of labels"),
    "a name twice": ({"name": "a.jpg"}, Kind.DUPLICATE_ID, "name 'a.jpg'"),
    "a video": ({"name": "b", "frames": [{}, {}]}, Kind.MALFORMED, "the one frame of the image"),
    "frames of text": ({"name": "b", "frames": "x"}, Kind.MALFORMED, "the one frame of the image"),
    "missing": ({"name": "none.jpg"}, Kind.MISSING_IMAGE, "none"),
    "missing without ending": ({"name": "none"}, Kind.MISSING_IMAGE, "none"),
    "climbing": ({"name": "../../x.jpg"}, Kind.PATH_OUTSIDE, "../../x.jpg"),
    "absolute": ({"name": "/etc/passwd"}, Kind.PATH_OUTSIDE, "/etc/passwd"),
    "null byte": ({"name": "b\0.jpg"}, Kind.PATH_OUTSIDE, "b"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frame_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    frame, kind, detail = FRAMES[name]
    _, (defect,) = bdd(tmp_path, [{"name": "a.jpg"}, frame]).inspect("train")
    assert (defect.kind, defect.action) == (kind, Action.ERROR)
    assert detail in defect.detail
    dataset, (defect,) = bdd(tmp_path, [{"name": "a.jpg"}, frame], "on_defect: skip").inspect("train")
    assert defect.action is Action.SKIPPED_IMAGE
    assert len(dataset) == 1


LABELS: dict[str, tuple[Any, Kind]] = {
    "unknown": (bdd_label("spaceship"), Kind.UNKNOWN_CATEGORY),
    "no category": (bdd_label(None), Kind.UNKNOWN_CATEGORY),
    "a list": (bdd_label(["car"]), Kind.UNKNOWN_CATEGORY),
    "no label": (3, Kind.UNKNOWN_CATEGORY),
    "no box": (bdd_label(box=None), Kind.MALFORMED),
    "a box of text": (bdd_label(box=("1", 2, 3, 4)), Kind.MALFORMED),
    "not finite": (bdd_label(box=(1, float("nan"), 3, 4)), Kind.MALFORMED),
    "beyond floats": (bdd_label(box=(1, 10**400, 3, 4)), Kind.MALFORMED),
    "a list for a box": (bdd_label() | {"box2d": [1, 2, 3, 4]}, Kind.MALFORMED),
}


@pytest.mark.parametrize("name", LABELS)
def test_label_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    label, kind = LABELS[name]
    frames = [{"name": "a.jpg", "labels": [bdd_label(), label]}]
    _, (defect,) = bdd(tmp_path, frames).inspect("train")
    assert (defect.kind, defect.action) == (kind, Action.ERROR)
    assert defect.where.endswith("det.json: frames[0]: a.jpg: label 1")
    dataset, (defect,) = bdd(tmp_path, frames, "on_defect: skip").inspect("train")
    assert defect.action is Action.SKIPPED_BOX
    assert len(dataset.records[0].labels) == 1


@pytest.mark.parametrize(
    ("box", "kind", "action", "left"),
    [
        ((5, 5, 3, 9), Kind.NO_AREA, Action.SKIPPED_BOX, None),
        ((5, 5, 4, 9), Kind.NO_AREA, Action.SKIPPED_BOX, None),
        ((5, 5, 5, 9), None, None, [5, 5, 6, 10]),  # one pixel wide
        ((30, 20, 39, 29), None, None, [30, 20, 40, 30]),
        ((30, 20, 40, 30), None, None, [30, 20, 40, 30]),  # drawn to the edge
        ((30, 20, 39.6, 29.2), None, None, [30, 20, 40, 30]),
        ((30, 20, 41, 29), Kind.OUTSIDE, Action.CLIPPED_BOX, [30, 20, 40, 30]),
        ((50, 20, 60, 29), Kind.OUTSIDE, Action.SKIPPED_BOX, None),
    ],
)
def test_boxes_that_do_not_fit(
    tmp_path: Path, box: tuple[float, ...], kind: Kind | None, action: Action | None, left: list[float] | None
) -> None:
    data = bdd(tmp_path, [{"name": "a.jpg", "labels": [bdd_label(box=box)]}])
    dataset, defects = data.inspect("train")
    assert [(defect.kind, defect.action) for defect in defects] == ([] if kind is None else [(kind, action)])
    assert dataset.records[0].boxes.tolist() == ([] if left is None else [left])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected BDD100K JSON, got what is no JSON"),
        ("[" * 100_000, "got what is no JSON"),
        ("3", "a list of frames or one image, got 3"),
        ('{"images": []}', "a list of frames or one image"),
        ("[]", r"splits.train: expected at least one usable image, got none"),
    ],
)
def test_json_that_is_not_bdd(tmp_path: Path, content: str, message: str) -> None:
    data = bdd(tmp_path, [])
    (tmp_path / "set" / "det.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        data.split("train")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("{images: images, labels: none.json}", r"none\.json: expected a BDD100K JSON file, got No such file"),
        ("{images: none, labels: det.json}", r"splits\.train\.images: expected a folder"),
        ("{images: images, labels: ../det.json}", "paths below this folder"),
        ("{images: /tmp, labels: det.json}", "paths below this folder"),
        ("{images: images}", r"splits\.train\.labels: expected this key"),
    ],
)
def test_places_that_do_not_exist(tmp_path: Path, where: str, message: str) -> None:
    bdd(tmp_path, [])
    with pytest.raises(DataError, match=message):
        datafile(tmp_path, f"format: bdd\nroot: set\nsplits:\n  train: {where}\n").split("train")


def test_files_of_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    bdd(tmp_path, [])
    folder = tmp_path / "set" / "labels"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(_older("a", bdd_label())))
    (folder / "b.json").write_text("{")
    (folder / "c.json").symlink_to(save_image(tmp_path / "x.png"))
    with (folder / "d.json").open("wb") as file:
        file.truncate(1 << 40)
    text = "format: bdd\nroot: set\non_defect: skip\nsplits: {train: {images: images, labels: labels}}\n"
    dataset, defects = datafile(tmp_path, text).inspect("train")
    assert [defect.kind for defect in defects] == [Kind.MALFORMED, Kind.PATH_OUTSIDE, Kind.MALFORMED]
    assert "at most 32 MiB" in defects[2].detail
    assert len(dataset) == 1


def test_a_file_larger_than_any_set_is_not_read(tmp_path: Path) -> None:
    data = bdd(tmp_path, [])
    with (tmp_path / "set" / "det.json").open("wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(DataError, match="at most 4096 MiB"):
        data.split("train")
