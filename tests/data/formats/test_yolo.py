"""The YOLO reader: where images and labels are found, boxes and polygons, each defect by name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image

from detsearch.data.check import check
from detsearch.data.datafile import load_datafile
from detsearch.data.defects import Action, Kind
from detsearch.data.formats.base import DataFile
from detsearch.data.formats.yolo import label_path, signed_area
from detsearch.errors import DataError
from tests.data.makers import datafile, save_image, yolo

DOG = "0 0.5 0.5 0.5 0.2\n"


def test_boxes_are_centre_and_size_in_parts_of_the_image(tmp_path: Path) -> None:
    data = yolo(tmp_path, DOG + "\n1 0.25 0.1 0.5 0.2\n").split("train")
    first, second = data.records
    assert (data.classes, data.category_ids) == (("dog", "cat"), (1, 2))
    assert first.path.name == "a.jpg"
    assert (first.image_id, first.width, first.height) == (1, 40, 30)
    np.testing.assert_allclose(first.boxes, [[10, 12, 30, 18], [0, 0, 20, 6]], atol=1e-5)
    assert first.labels.tolist() == [0, 1]
    np.testing.assert_allclose(first.area, [120, 120], rtol=1e-5)
    assert not (first.crowd | first.difficult).any()
    assert second.boxes.shape == (0, 4)


def test_polygons_are_outlines_with_their_bounding_box_and_area(tmp_path: Path) -> None:
    data = yolo(tmp_path, "1 0.25 0.2 0.75 0.2 0.25 0.6\n" + DOG)
    first = data.inspect("train", masks=True)[0].records[0]
    np.testing.assert_allclose(first.boxes[0], [10, 6, 30, 18], atol=1e-5)
    assert first.area[0] == pytest.approx(120)  # half of 20 x 12
    assert first.segmentations is not None
    ((polygon,), none) = first.segmentations
    np.testing.assert_allclose(polygon, [[10, 6], [30, 6], [10, 18]])
    assert none is None
    plain = data.split("train").records[0]  # to who asks for boxes only, it is a box
    np.testing.assert_allclose(plain.boxes, first.boxes)
    assert plain.segmentations is None


@pytest.mark.parametrize("on_defect", ["error", "skip"])
def test_a_photo_that_only_exif_turns_is_told_of_and_kept(tmp_path: Path, on_defect: str) -> None:
    """Labels tell no size that could contradict the file's."""
    data = yolo(tmp_path, DOG, f"on_defect: {on_defect}")
    path = tmp_path / "set" / "images" / "train" / "a.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(path) as image:
        image.save(path, exif=exif)
    report = check(data)
    (defect,) = report.splits["train"].defects
    assert (defect.kind, defect.action, defect.where) == (Kind.TURNED, Action.KEPT, str(path))
    assert "orientation 6, which is not applied: boxes must fit the pixels as stored" in "\n".join(report.lines())
    assert report.usable
    assert len(data.split("train")) == 2


def test_classes_select_and_order(tmp_path: Path) -> None:
    data = yolo(tmp_path, DOG + "1 0.5 0.5 0.1 0.1\n", "classes: [cat]").split("train")
    assert data.classes == ("cat",)
    assert data.records[0].labels.tolist() == [0]
    with pytest.raises(DataError, match="classes: expected some of dog, cat, got cow"):
        yolo(tmp_path, DOG, "classes: [dog, cow]").split("train")


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("train/images/a.b.jpg", "train/labels/a.b.txt"),
        ("images/old/images/a.jpg", "images/old/labels/a.txt"),
        ("pictures/a.jpg", "pictures/a.txt"),
        ("images.jpg", "images.txt"),
    ],
)
def test_labels_lie_in_the_folder_beside_images(image: str, labels: str) -> None:
    assert label_path(image) == labels


LINES = {
    "words": ("dog 0.5 0.5 0.5 0.2\n", Kind.MALFORMED, "5 numbers of a class and its box"),
    "four numbers": ("0 0.5 0.5 0.5\n", Kind.MALFORMED, "5 numbers"),
    "a score": ("0 0.5 0.5 0.5 0.2 0.9\n", Kind.MALFORMED, "5 numbers"),
    "half a point": ("0 0 0 0 1 1 1 0.5\n", Kind.MALFORMED, "5 numbers"),
    "pixels": ("0 20 15 20 6\n", Kind.MALFORMED, "numbers in 0..1 needed, got '20 15 20 6'"),
    "negative": ("0 0.5 0.5 -0.5 0.2\n", Kind.MALFORMED, "numbers in 0..1"),
    "nan": ("0 0.5 nan 0.5 0.2\n", Kind.MALFORMED, "numbers in 0..1"),
    "infinite": ("0 0.5 0.5 inf 0.2\n", Kind.MALFORMED, "numbers in 0..1"),
    "polygon outside": ("0 0.5 0.5 0.5 0.2 1.5 0.5\n", Kind.MALFORMED, "numbers in 0..1"),
    "class beyond": ("2 0.5 0.5 0.5 0.2\n", Kind.UNKNOWN_CATEGORY, "class '2' is none of 0..1"),
    "class below": ("-1 0.5 0.5 0.5 0.2\n", Kind.UNKNOWN_CATEGORY, "class '-1'"),
    "half a class": ("0.5 0.5 0.5 0.5 0.2\n", Kind.UNKNOWN_CATEGORY, "class '0.5'"),
    "infinite class": ("inf 0.5 0.5 0.5 0.2\n", Kind.UNKNOWN_CATEGORY, "class 'inf'"),
    "nan class": ("nan 0.5 0.5 0.5 0.2\n", Kind.UNKNOWN_CATEGORY, "class 'nan'"),
}


@pytest.mark.parametrize("name", LINES)
def test_line_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    line, kind, detail = LINES[name]
    _, (defect,) = yolo(tmp_path, DOG + line).inspect("train")
    assert (defect.kind, defect.action) == (kind, Action.ERROR)
    assert detail in defect.detail
    assert defect.where.endswith("labels/train/a.txt: line 2")
    dataset, (defect,) = yolo(tmp_path, DOG + line, "on_defect: skip").inspect("train")
    assert defect.action is Action.SKIPPED_BOX
    assert len(dataset.records[0].labels) == 1


@pytest.mark.parametrize(
    ("line", "kind", "action"),
    [
        ("0 0.5 0.5 0 0.2", Kind.NO_AREA, Action.SKIPPED_BOX),
        ("0 0.5 0.5 0.5 0.5 0.5 0.5", Kind.NO_AREA, Action.SKIPPED_BOX),
        ("0 0.1 0.5 0.5 0.2", Kind.OUTSIDE, Action.CLIPPED_BOX),
        ("0 0.2499 0.5 0.5 0.2", None, None),  # rounding
        ("0 0.9 0.2 1.0000005 0.2 0.9 0.3", None, None),
    ],
)
def test_boxes_that_do_not_fit(tmp_path: Path, line: str, kind: Kind | None, action: Action | None) -> None:
    dataset, defects = yolo(tmp_path, line).inspect("train")
    assert [(defect.kind, defect.action) for defect in defects] == ([] if kind is None else [(kind, action)])
    boxes = dataset.records[0].boxes
    assert len(boxes) == (action is not Action.SKIPPED_BOX)
    assert (boxes >= 0).all()
    assert (boxes <= [40, 30, 40, 30]).all()


def _files(folder: Path) -> Path:
    return folder / "set" / "labels" / "train" / "a.txt"


def _binary(folder: Path) -> None:
    _files(folder).write_bytes(b"\xff\xfe0 0.5")


def _pipe(folder: Path) -> None:
    _files(folder).unlink()
    os.mkfifo(_files(folder))


def _huge(folder: Path) -> None:
    with _files(folder).open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file


def _link_out(folder: Path) -> None:
    _files(folder).unlink()
    _files(folder).symlink_to("/etc/passwd")


def _image_link_out(folder: Path) -> None:
    image = folder / "set" / "images" / "train" / "a.jpg"
    image.rename(folder / "a.jpg")
    image.symlink_to(folder / "a.jpg")


def _truncated(folder: Path) -> None:
    image = folder / "set" / "images" / "train" / "a.jpg"
    image.write_bytes(image.read_bytes()[:200])


FILES = {
    "no text": (_binary, Kind.MALFORMED, "UTF-8"),
    "a pipe": (_pipe, Kind.MALFORMED, "no plain file"),
    "huge": (_huge, Kind.MALFORMED, "at most 32 MiB"),
    "a link out of the root": (_link_out, Kind.PATH_OUTSIDE, "a link to /etc/passwd"),
    "an image that is a link out": (_image_link_out, Kind.PATH_OUTSIDE, "a link to"),
    "a truncated image": (_truncated, Kind.UNREADABLE_IMAGE, ""),
}


@pytest.mark.parametrize("name", FILES)
def test_image_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    spoil, kind, detail = FILES[name]
    data = yolo(tmp_path, DOG)
    spoil(tmp_path)
    dataset, (defect,) = data.inspect("train")
    assert (defect.kind, defect.action) == (kind, Action.ERROR)
    assert detail in defect.detail
    assert len(str(defect).splitlines()) == 1
    assert len(dataset) == 1


def test_a_missing_label_file_is_an_image_without_objects_but_none_at_all_is_a_mistake(tmp_path: Path) -> None:
    assert [len(record.labels) for record in yolo(tmp_path, None).split("train").records] == [0, 0]
    (tmp_path / "set" / "labels").rename(tmp_path / "set" / "txt")
    with pytest.raises(DataError, match=r"label files, such as labels/train/a\.txt below .*, got none for 2 images"):
        load_datafile(tmp_path / "data.yaml").split("train")


def _config(folder: Path, content: object, extra: str = "") -> DataFile:
    """The set of `yolo`, found by its own data.yaml."""
    yolo(folder, DOG)
    (folder / "set" / "data.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return datafile(folder, f"format: yolo\nconfig: set/data.yaml\n{extra}")


NAMES = {0: "dog", 1: "cat"}


@pytest.mark.parametrize(
    "content",
    [
        {"train": "images/train", "val": "images/train", "names": ["dog", "cat"], "nc": 2},
        {
            "path": ".",
            "train": ["images/train"],
            "val": "list.txt",
            "names": NAMES,
            "test": None,
            "download": "rm -r /",
        },
        {"path": "", "train": "../images/train", "val": "../images", "names": NAMES},
    ],
)
def test_what_a_data_yaml_says(tmp_path: Path, content: dict[str, object]) -> None:
    content = {key: value for key, value in content.items() if value != ""}
    data = _config(tmp_path, content)
    (tmp_path / "set" / "list.txt").write_text("./images/train/a.jpg\n\nimages/train/b.png\n")
    assert list(data.splits) == ["train", "val"]
    for split in data.splits:
        dataset = data.split(split)
        assert dataset.classes == ("dog", "cat")
        assert [record.path.name for record in dataset.records] == ["a.jpg", "b.png"]
        assert [len(record.labels) for record in dataset.records] == [1, 0]


def test_the_data_file_goes_before_data_yaml(tmp_path: Path) -> None:
    content = {"path": "/elsewhere", "train": "none", "names": ["x", "y"]}
    data = _config(tmp_path, content, "root: set\nnames: {0: 7, 1: 8}\nsplits: {all: [images/train]}")
    assert data.split("all").classes == ("7", "8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": "images", "names": []}, r"data\.yaml: names"),
        ({"train": "images", "names": ["a", "a"]}, r"data\.yaml: names: expected class names that all differ"),
        (
            {"train": "images", "names": {0: "a", 2: "b"}},
            r"data\.yaml: names: expected a list of names, or names by num",
        ),
        ({"train": "images", "names": {False: "a", 1: "b"}}, r"data\.yaml: names: expected a list of names"),
        ({"train": "images", "names": [False, "b"]}, r"data\.yaml: names"),
        ({"train": "images"}, r"data\.yaml: names: expected this key"),
        ({"names": ["a"]}, r"data\.yaml: splits: expected this key, or a 'config' that has it"),
        ({"train": 3, "names": ["a"]}, r"data\.yaml: train"),
        ({"train": "images", "names": ["a"], "nc": 2}, r"data\.yaml: nc: expected 1, the number of names, got 2"),
        ({"path": "/", "train": "etc", "names": ["a"]}, r"data\.yaml: path: expected a folder below .*'root' in"),
        ({"path": "../..", "train": "etc", "names": ["a"]}, r"data\.yaml: path: expected a folder below"),
        ({"path": "coco8", "train": "etc", "names": ["a"]}, r"data\.yaml: path: expected a folder below"),
        ("- 3\n", r"data\.yaml: expected YAML with"),
        ("a: [\n", r"data\.yaml: expected YAML"),
    ],
)
def test_data_yaml_that_cannot_be_used(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _config(tmp_path, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("none", "a folder or a list"),
        ("none.txt", "a list of images, got No such file"),
        ("images/train/a.jpg", "a folder or a list"),
        ("../set/images", "paths below this folder"),
        ("/tmp", "paths below this folder"),
        ("linked", "a link to"),
        ("labels", "at least one usable image, got none"),
        ("[]", "at least one usable image, got none"),
    ],
)
def test_places_that_do_not_exist(tmp_path: Path, place: str, message: str) -> None:
    yolo(tmp_path, DOG)
    (tmp_path / "set" / "linked").symlink_to(tmp_path)
    with pytest.raises(DataError, match=message):
        datafile(tmp_path, f"format: yolo\nroot: set\nnames: [dog, cat]\nsplits: {{train: {place}}}\n").split("train")
    with pytest.raises(DataError, match=r"data\.yaml: names: expected this key"):
        datafile(tmp_path, "format: yolo\nroot: set\nsplits: {train: images}\n")


def test_lists_that_name_what_cannot_be_used(tmp_path: Path) -> None:
    yolo(tmp_path, DOG)
    lines = ["images/train/a.jpg", "./images/train/a.jpg", "/etc/a.jpg", "../../x.jpg", "images/train/none.jpg"]
    (tmp_path / "set" / "list.txt").write_text("\n".join(lines))
    text = "format: yolo\nroot: set\nnames: [dog, cat]\nsplits: {train: list.txt}\non_defect: skip\n"
    dataset, defects = datafile(tmp_path, text).inspect("train")
    kinds = [Kind.DUPLICATE_ID, Kind.PATH_OUTSIDE, Kind.PATH_OUTSIDE, Kind.MISSING_IMAGE]
    assert [(defect.kind, defect.action) for defect in defects] == [(kind, Action.SKIPPED_IMAGE) for kind in kinds]
    assert len(dataset) == 1


def test_folders_are_searched_in_order_and_hidden_files_passed_over(tmp_path: Path) -> None:
    data = yolo(tmp_path, DOG)
    folder = tmp_path / "set" / "images" / "train"
    save_image(folder / "deep" / "c.webp")
    save_image(folder / "A.JPEG")
    (folder / "._a.jpg").write_bytes(b"resource fork")
    (folder / "notes.md").write_text("none")
    (folder / "linked").symlink_to(tmp_path)
    names = [record.path.name for record in data.split("train").records]
    assert names == ["A.JPEG", "a.jpg", "b.png", "c.webp"]


def test_area_of_a_polygon() -> None:
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2]], dtype=np.float64)
    assert signed_area(square) == 4
    assert signed_area(square[::-1]) == -4
