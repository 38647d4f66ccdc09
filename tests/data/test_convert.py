"""Converting: every pair of formats, on random records and on real sets; what is not kept is counted."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from detsearch.data.convert import DATA_FILE, convert
from detsearch.data.datafile import load_datafile
from detsearch.data.dataset import Dataset, ImageRecord
from detsearch.data.defects import Findings
from detsearch.data.formats import WRITERS
from detsearch.data.formats.base import DataFile
from detsearch.data.masks import Segmentation, decode, encode
from detsearch.errors import DataError, RecipeError, ResourceError
from tests.data.makers import coco, coco_content, datafile, save_image, voc_object, voc_xml

FORMATS = ("coco", "voc", "bdd", "yolo")
CLASSES = ("person", "traffic light", "b", "ä, <b>")  # one that BDD spells otherwise, others that need care in text
SIDES = ((48, 40), (40, 56))


class Memory(DataFile):
    """Datasets that lie in memory; their images are files."""

    format: str = "memory"
    splits: Mapping[str, Any]

    def read(self, split: str, findings: Findings) -> Dataset:
        found: Dataset = self.splits[split]
        return found


@st.composite
def records(draw: st.DrawFn, image_id: int, size: tuple[int, int]) -> ImageRecord:
    """Corners in quarters of a pixel, boxes also of one pixel and less; flags; masks of all kinds, or none."""
    width, height = size
    masked = draw(st.sampled_from([(), ("polygon", "parts"), ("polygon", "runs", "none")]))
    boxes, masks = [], []
    for _ in range(draw(st.integers(0, 4))):
        x1, y1 = draw(st.integers(0, 4 * width - 9)) / 4, draw(st.integers(0, 4 * height - 9)) / 4
        x2 = x1 + draw(st.sampled_from([0.25, 1.0, 1.25, width - x1]))
        y2 = y1 + draw(st.sampled_from([0.5, 1.0, 2.25, height - y1]))
        boxes.append((x1, y1, x2, y2))
        masks.append(_mask(draw(st.sampled_from(masked or ("none",))), boxes[-1], size))
    count = len(boxes)
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    flags = st.lists(st.sampled_from([False, False, True]), min_size=count, max_size=count)
    return ImageRecord(
        image_id=image_id,
        path=Path(f"{image_id}.png"),
        width=width,
        height=height,
        boxes=corners,
        labels=np.array(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)), dtype=np.int64),
        area=(corners[:, 2:] - corners[:, :2]).prod(axis=1) * draw(st.sampled_from([1.0, 0.5])),
        crowd=np.array(draw(flags), dtype=np.bool_),
        difficult=np.array(draw(flags), dtype=np.bool_),
        segmentations=None if all(mask is None for mask in masks) else tuple(masks),
    )


def _mask(kind: str, box: tuple[float, ...], size: tuple[int, int]) -> Segmentation | None:
    x1, y1, x2, y2 = box
    whole = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    if kind == "polygon":
        return (whole,)
    if kind == "parts":
        return np.array([[x1, y1], [x2, y1], [x1, y2]]), whole[::-1]
    if kind == "runs":
        mask = np.zeros((size[1], size[0]), dtype=np.bool_)
        mask[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = True
        return encode(mask)
    return None


def kept(record: ImageRecord, to: str) -> ImageRecord:
    """What a format has a place for."""
    if to == "coco":
        return record
    sides = record.boxes[:, 2:] - record.boxes[:, :2]
    area = sides.prod(axis=1)
    if to == "bdd":
        return replace(record, area=area)
    if to == "voc":
        aside = record.crowd | record.difficult
        flat = replace(record, area=area, crowd=np.zeros_like(aside), difficult=aside, segmentations=None)
        return flat.only((sides > 1).all(axis=1))
    record = replace(record, area=area).only(record.targets)
    if not all(isinstance(mask, tuple) for mask in record.segmentations or (None,)):
        record = replace(record, segmentations=None)
    return record


def assert_same(found: ImageRecord, expected: ImageRecord) -> None:
    assert (found.path.stem, found.width, found.height) == (expected.path.stem, expected.width, expected.height)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    for name in ("labels", "crowd", "difficult"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert found.outlined().tolist() == expected.outlined().tolist()


def assert_same_masks(found: ImageRecord, expected: ImageRecord) -> None:
    for one, other in zip(found.segmentations or (), expected.segmentations or (), strict=True):
        if isinstance(one, tuple) and isinstance(other, tuple):
            assert len(one) == len(other)
            for points, others in zip(one, other, strict=True):
                np.testing.assert_allclose(points, others)
        else:
            assert one == other


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for image_id in range(1, 5):
        save_image(folder / f"{image_id}.png", *SIDES[image_id % 2], seed=image_id)
    return folder


@pytest.mark.parametrize("second", FORMATS)
@pytest.mark.parametrize("first", FORMATS)
def test_round_trips_over_all_pairs_of_formats(images: Path, first: str, second: str) -> None:
    @hypothesis_settings(max_examples=6)
    @given(st.tuples(*[records(image_id, SIDES[image_id % 2]) for image_id in range(1, 5)]))
    def check(drawn: tuple[ImageRecord, ...]) -> None:
        found = [replace(record, path=images / record.path) for record in drawn]
        ids = (3, 5, 6, 90)
        sets = {
            split: Dataset(name="memory", split=split, classes=CLASSES, category_ids=ids, records=tuple(part))
            for split, part in (("train", found[:3]), ("val", found[3:]))
        }
        with tempfile.TemporaryDirectory() as folder:
            original: DataFile = Memory(splits=sets)
            for number, to in enumerate((first, second)):
                before = [record for dataset in sets.values() for record in dataset.records]
                done = convert(original, to, Path(folder, str(number)))
                original = load_datafile(done.datafile)
                sets = {split: original.inspect(split, masks=True)[0] for split in sets}
                after = [record for dataset in sets.values() for record in dataset.records]
                expected = [kept(record, to) for record in before]
                for one, other in zip(after, expected, strict=True):
                    assert_same(one, other)
                    if to in ("coco", "bdd"):
                        assert_same_masks(one, other)
                _assert_counted(done.lost, before, expected)
            data = sets["train"]
            assert data.classes == CLASSES
            assert data.category_ids == (ids if first == second == "coco" else (1, 2, 3, 4))
            assert not {path.name for path in Path(folder).rglob("*.partial*")}

    check()


def _assert_counted(lost: Mapping[str, int], before: list[ImageRecord], after: list[ImageRecord]) -> None:
    """Independently of how boxes are told apart: the sums over all objects, before and after."""

    def total(records: list[ImageRecord], name: str) -> int:
        return sum(int(getattr(record, name).sum()) for record in records)

    crowds = lost.get("crowd regions", 0) + lost.get("crowd flags", 0)
    objects = sum(len(record.labels) for record in before) - sum(len(record.labels) for record in after)
    assert crowds == total(before, "crowd") - total(after, "crowd")
    assert sum(lost.get(name, 0) for name in ("boxes", "crowd regions", "difficult objects")) == objects


def test_real_coco_and_back(tiny_coco: Path, tmp_path: Path) -> None:
    source = datafile(
        tmp_path,
        f"format: coco\nroot: {tiny_coco}\nsplits:\n"
        "  val: {images: val2017, annotations: annotations/instances_val2017.json}\n",
    )
    original = source.inspect("val", masks=True)[0]
    lost = {
        "coco": {},
        "voc": {"crowd flags": 5, "masks": 382, "areas": 381, "image ids": 50, "category ids": 69},
        "bdd": {"areas": 381, "image ids": 50, "category ids": 69},
        "yolo": {"crowd regions": 5, "image ids": 50, "category ids": 69},
    }
    for to in FORMATS:
        done = convert(source, to, tmp_path / to, link=False)
        assert done.lost == lost[to], to
        assert done.images == {"val": 50}
        back = convert(load_datafile(done.datafile), "coco", tmp_path / f"{to}-back")
        again = load_datafile(back.datafile).inspect("val", masks=True)[0]
        assert again.classes == original.classes
        assert {r.path.name for r in again.records} == {r.path.name for r in original.records}
        by_name = {record.path.name: record for record in again.records}
        for record in original.records:
            found = by_name[record.path.name]
            expected = record.only(record.targets) if to == "yolo" else record
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=2e-3)
            assert np.array_equal(found.labels, expected.labels)
        assert (found.load() == record.load()).all()


def test_masks_in_parts_cover_the_same_once_they_are_joined(tiny_coco: Path, tmp_path: Path) -> None:
    text = "splits: {val: {images: val2017, annotations: annotations/instances_val2017.json}}"
    source = datafile(tmp_path, f"format: coco\nroot: {tiny_coco}\n{text}\n")
    done = load_datafile(convert(source, "yolo", tmp_path / "yolo").datafile).inspect("val", masks=True)[0]
    by_name = {record.path.name: record for record in done.records}
    parts = 0
    for record in source.inspect("val", masks=True)[0].records:
        record = record.only(record.targets)
        joined = by_name[record.path.name].segmentations or ()
        for before, after in zip(record.segmentations or (), joined, strict=True):
            assert isinstance(before, tuple)
            assert after is not None
            parts += len(before) > 1
            one, other = decode([before, after], (record.width, record.height)).bool()
            # A rounded point may tip a pixel of the edge, in whose raster a fifth of a pixel counts.
            assert (one ^ other).sum() <= 2 + (0.002 if len(before) > 1 else 0.03) * one.sum()
    assert parts == 22


def test_real_voc_through_all_formats(bccd: Path, tmp_path: Path) -> None:
    text = "classes: [RBC, WBC, Platelets]\nsplits: {test: test}\n"
    source = datafile(tmp_path, f"format: voc\nroot: {bccd}\n{text}")
    original = source.split("test")
    done = source
    for to in ("yolo", "bdd", "coco", "voc"):
        conversion = convert(done, to, tmp_path / to)
        assert conversion.lost == {}
        done = load_datafile(conversion.datafile)
    final = done.split("test")
    assert final.classes == original.classes
    for one, other in zip(final.records, original.records, strict=True):
        assert_same(one, other)
        assert one.image_id == other.image_id
    name = original.records[0].path.stem
    written = (tmp_path / "voc" / "Annotations" / f"{name}.xml").read_text()
    assert "." not in written.split("<bndbox>")[1].split("</bndbox>")[0]  # whole numbers stay whole


def test_defects_of_the_original_are_counted_or_refused(tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["annotations"][0]["bbox"] = [0, 0, 0, 5]
        content["images"].append({"id": 10, "file_name": "none.jpg", "width": 9, "height": 9})

    with pytest.raises(DataError, match="missing image"):
        convert(coco(tmp_path, spoil), "voc", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = convert(coco(tmp_path, spoil, "on_defect: skip"), "voc", tmp_path / "out")
    assert done.mended == {"box without area": 1, "missing image": 1}
    assert done.images == {"train": 2}


def test_objects_without_mask_are_converted_all_the_same(tmp_path: Path) -> None:
    polygon = [[2, 3, 12, 3, 12, 15, 2, 15]]
    source = coco(tmp_path, lambda content: content["annotations"][0].update(segmentation=polygon))
    done = convert(source, "bdd", tmp_path / "out")
    assert done.boxes == {"train": 2}
    assert "masks" not in done.lost
    assert done.mended == {}


@pytest.mark.parametrize("to", FORMATS)
def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path: Path, to: str) -> None:
    source = coco(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(RecipeError, match="a new or an empty folder"):
        convert(source, to, out)
    assert [path.name for path in out.iterdir()] == ["mine"]
    with pytest.raises(RecipeError, match="a new or an empty folder"):
        convert(source, to, out / "mine")
    (out / "mine").unlink()
    assert convert(source, to, out).images == {"train": 2}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_what_ends_early_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise problem

    source = coco(tmp_path)
    monkeypatch.setattr(WRITERS["coco"], "write", fail)
    expected = ResourceError if isinstance(problem, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if isinstance(problem, OSError) else None):
        convert(source, "coco", tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())


def test_images_are_copies_or_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = coco(tmp_path)
    original = tmp_path / "set" / "img" / "a.jpg"
    convert(source, "coco", tmp_path / "copied")
    copied = tmp_path / "copied" / "train" / "a.jpg"
    assert copied.read_bytes() == original.read_bytes()
    assert not copied.samefile(original)
    done = convert(source, "coco", tmp_path / "linked", link=True)
    linked = tmp_path / "linked" / "train" / "a.jpg"
    assert linked.samefile(original)
    assert not linked.is_symlink()  # which readers would refuse, because it leads out of the root
    assert len(load_datafile(done.datafile).split("train")) == 2

    def other_disk(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    with pytest.raises(ResourceError, match=r"a\.jpg: .*Invalid cross-device link; copy the images instead"):
        convert(source, "coco", tmp_path / "elsewhere", link=True)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("to", FORMATS)
def test_file_names_that_collide_or_would_be_misread(tmp_path: Path, to: str) -> None:
    names = ["x/a.jpg", "y/a.png", "y/A.jpg", "with space 1.jpg", ".hidden.jpg", "x/photo", "images/images.png"]

    def rename(content: dict[str, Any]) -> None:
        content["images"] = [
            {"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names, start=1)
        ]
        box = coco_content()["annotations"][0]
        content["annotations"] = [box | {"id": i, "image_id": i} for i in range(1, len(names) + 1)]

    source = coco(tmp_path, rename)
    for i, name in enumerate(names):
        path = tmp_path / "set" / "img" / name
        save_image(path.with_suffix(".png") if path.suffix == "" else path, 40, 30, seed=i)
    (tmp_path / "set" / "img" / "x" / "photo.png").rename(tmp_path / "set" / "img" / "x" / "photo")
    done = convert(source, to, tmp_path / "out")
    again = load_datafile(done.datafile).split("train")
    assert len(again) == len(names)
    assert {record.path.name for record in again.records} == {
        "a.jpg", "a_2.png", "A_3.jpg", "with_space_1.jpg", "hidden.jpg", "photo.png", "images.png"
    }  # fmt: skip
    pixels = {record.load().numpy().tobytes() for record in again.records}
    assert pixels == {record.load().numpy().tobytes() for record in source.split("train").records}


def test_one_image_in_two_splits(tmp_path: Path) -> None:
    coco(tmp_path)
    other = coco_content()
    other["annotations"] = []
    (tmp_path / "set" / "other.json").write_text(json.dumps(other))
    line = "  {name}: {{images: img, annotations: {file}.json}}\n"
    splits = line.format(name="train", file="ann") + line.format(name="same", file="ann")
    same = datafile(tmp_path, f"format: coco\nroot: set\nsplits:\n{splits}")
    for to in FORMATS:
        done = convert(same, to, tmp_path / to)
        assert done.images == {"train": 2, "same": 2}
        again = load_datafile(done.datafile)
        assert [record.path.name for record in again.split("same").records] == ["a.jpg", "b.png"]
    text = f"format: coco\nroot: set\nsplits:\n{splits}{line.format(name='bare', file='other')}"
    differing = datafile(tmp_path, text)
    with pytest.raises(
        DataError, match=r"a\.jpg in split bare: expected the objects that it has in other splits.*--split"
    ):
        convert(differing, "voc", tmp_path / "differing")
    assert convert(differing, "voc", tmp_path / "one", splits=["bare"]).boxes == {"bare": 0}
    assert convert(differing, "yolo", tmp_path / "many").boxes == {"train": 1, "same": 1, "bare": 0}


def test_splits_that_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "format: synthetic\nwidth: 64\nheight: 48\nsplits: {a: {images: 2, seed: 1}, b: {images: 1, seed: 2}}\n"
    )
    source = load_datafile(tmp_path / "s.yaml")
    assert convert(source, "voc", tmp_path / "both").images == {"a": 2, "b": 1}
    assert convert(source, "voc", tmp_path / "one", splits=["b", "b"]).images == {"b": 1}
    with pytest.raises(DataError, match="splits: expected one of a, b, got 'c'"):
        convert(source, "voc", tmp_path / "none", splits=["c"])


def test_what_is_written_for_yolo_is_read_by_its_own_rules(tmp_path: Path) -> None:
    done = convert(coco(tmp_path), "yolo", tmp_path / "out")
    config = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert config == {"train": "images/train", "nc": 2, "names": {0: "cat", 1: "dog"}}
    lines = (tmp_path / "out" / "labels" / "train" / "a.txt").read_text()
    assert lines == "1 0.175 0.3 0.25 0.4\n"  # 2..12 of 40 and 3..15 of 30; the crowd is left out
    assert (tmp_path / "out" / "labels" / "train" / "b.txt").read_text() == ""
    assert load_datafile(done.datafile).name == DATA_FILE.removesuffix(".yaml")


def test_an_image_of_mixed_objects_has_boxes_only(tmp_path: Path) -> None:
    """Other programs take all lines of a file for polygons if one of them is."""

    def change(content: dict[str, Any]) -> None:
        first, second = content["annotations"]
        first["segmentation"] = [[2, 3, 12, 3, 12, 15, 2, 15]]
        second |= {"iscrowd": 0}

    done = convert(coco(tmp_path, change), "yolo", tmp_path / "out")
    assert done.lost["masks"] == 1
    lines = (tmp_path / "out" / "labels" / "train" / "a.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [5, 5]


def test_a_mask_that_its_box_is_not_the_bounds_of_stays_a_box_in_yolo(tmp_path: Path) -> None:
    small = [[4, 5, 10, 5, 10, 13]]
    source = coco(tmp_path, lambda content: content["annotations"][0].update(segmentation=small))
    done = convert(source, "yolo", tmp_path / "out")
    assert done.lost["masks"] == 1
    assert load_datafile(done.datafile).split("train").records[0].boxes.tolist() == pytest.approx(
        np.array([[2, 3, 12, 15]]), abs=1e-3
    )


def test_voc_has_no_place_for_boxes_of_one_pixel(tmp_path: Path) -> None:
    source = coco(tmp_path, lambda content: content["annotations"][0].update(bbox=[2, 3, 1, 12]))
    assert convert(source, "voc", tmp_path / "out").lost["boxes"] == 1
    xml = voc_xml(voc_object("dog", (3, 4, 12.5, 15)))
    assert "12.5" in xml
