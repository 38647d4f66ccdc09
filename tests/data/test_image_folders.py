from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from detsearch.data.image_folders import read_split
from detsearch.errors import DataError
from tests.data.folders import CLASSES, coloured, image_folders


def test_classes_labels_and_files(tmp_path: Path) -> None:
    """In the order of names, whatever the system's is; files that are no images, and hidden ones, are passed over."""
    root = image_folders(tmp_path, ("b", "a", "c d"), train=3, val=1)
    (root / "train" / "labels.txt").write_text("a\n")
    (root / "train" / "a" / "notes.txt").write_text("")
    (root / "train" / "a" / ".hidden.png").write_text("")
    (root / "train" / ".cache").mkdir()
    coloured(root / "train" / "a" / "Z.JPEG", 0, 0)
    found = read_split(root, "train")
    assert found.classes == ("a", "b", "c d")
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    names = [found.path(i).relative_to(root).as_posix() for i in range(len(found))]
    assert names[:5] == ["train/a/0.png", "train/a/1.png", "train/a/2.png", "train/a/Z.JPEG", "train/b/0.png"]
    assert not found.warnings
    found.check()
    other = read_split(root, "val", found.classes)
    assert (other.classes, other.labels.tolist()) == (found.classes, [0, 1, 2])


def test_a_class_without_images_keeps_its_label_and_is_told(tmp_path: Path) -> None:
    root = image_folders(tmp_path)
    for path in (root / "train" / "green").iterdir():
        path.unlink()
    (root / "val" / "red").rename(root / "red")
    train = read_split(root, "train")
    assert train.labels.tolist() == [0] * 4 + [2] * 4
    assert train.warnings == (f"{root / 'train'}: no images of green",)
    val = read_split(root, "val", train.classes)
    assert (val.classes, val.labels.tolist()) == (CLASSES, [0, 0, 1, 1])
    assert val.warnings == (f"{root / 'val'}: no images of red",)


def test_many_classes_without_images_are_counted(tmp_path: Path) -> None:
    root = image_folders(tmp_path, tuple(f"c{i:02}" for i in range(9)), train=0, val=0)
    coloured(root / "train" / "c08" / "a.png", 0, 0)
    assert read_split(root, "train").warnings[0].endswith("no images of c00, c01, c02, c03, c04 and 3 more")


def _empty(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.unlink()


def _one_class(root: Path) -> None:
    for name in ("green", "red"):
        (root / "train" / name).rename(root / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "train").rename(root / "training"), "a folder 'train', got folders: training, val"),
        (_empty, "images .* in the folders of its classes, got none"),
        (_one_class, "two classes or more, got 1"),
        (lambda root: coloured(root / "train" / "loose.jpg", 0, 0), "loose.jpg beside them"),
        (lambda root: coloured(root / "train" / "red" / "more" / "a.png", 0, 0), "got a folder more"),
        (lambda root: (root / "train" / "a\x1b[2Jb").mkdir(), "can be printed"),
        pytest.param(
            lambda root: os.mkdir(os.fsencode(root / "train") + b"/\xff"),
            "can be printed",
            marks=pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes no such name"),
        ),
        (lambda root: (root / "train" / "red" / "pipe.jpg").symlink_to(root / "nowhere"), "leads nowhere"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    change(image_folders(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        read_split(tmp_path, "train")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_class_that_is_not_trained_on(tmp_path: Path) -> None:
    root = image_folders(tmp_path)
    coloured(root / "val" / "violet" / "a.png", 0, 0)
    with pytest.raises(DataError, match="classes that are trained on, got also violet"):
        read_split(root, "val", CLASSES)


def test_no_folder_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_split(tmp_path / "nosuch", "train")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="got a file"):
        read_split(tmp_path / "file", "train")
    with pytest.raises(DataError, match="paths below"):
        read_split(tmp_path, "../train")
    with pytest.raises(DataError, match="folders: none"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize("place", ["train", "train/red", "train/red/0.png"])
def test_links_may_not_leave_the_root(tmp_path: Path, place: str) -> None:
    root = image_folders(tmp_path / "root")
    (root / place).rename(tmp_path / "outside")
    (root / place).symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="a link to"):
        read_split(root, "train")
    # Within the root a link is as good as a file.
    (root / place).unlink()
    (tmp_path / "outside").rename(root / "elsewhere.png")
    (root / place).symlink_to(root / "elsewhere.png")
    assert len(read_split(root, "train")) == 12


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    root = image_folders(tmp_path, suffix="jpg")
    read_split(root, "train").check()
    whole = (root / "train" / "green" / "2.jpg").read_bytes()
    for broken in (b"", b"no image", whole[: len(whole) // 2]):
        (root / "train" / "green" / "2.jpg").write_bytes(broken)
        with pytest.raises(DataError, match=r"green/2\.jpg"):
            read_split(root, "train").check()
