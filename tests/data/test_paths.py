"""Names in files from outside never lead out of the data root."""

from __future__ import annotations

from pathlib import Path

import pytest

from detsearch.data.paths import inside
from detsearch.errors import DataError


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", "a/..", "..", "", "a\0b", "C:\\x", "\\\\host\\x", "..\\x"]
)
def test_absolute_and_climbing_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="paths below this folder"):
        inside(tmp_path, name)


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"paths below this folder, got .*ud800.*cannot be one"):
        inside(tmp_path, "\ud800.jpg")
    assert inside(tmp_path, "\udcff.jpg").name == "\udcff.jpg"  # how Python names files whose names are no UTF-8


def test_links_may_stay_inside_but_not_leave(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "root-other"
    (root / "real").mkdir(parents=True)
    other.mkdir()
    (root / "good").symlink_to(root / "real")
    (root / "bad").symlink_to(other)  # its name begins as the root's does
    assert inside(root, "good", "x.jpg") == root / "good" / "x.jpg"
    with pytest.raises(DataError, match="a link to"):
        inside(root, "bad", "x.jpg")
    (tmp_path / "alias").symlink_to(root)
    assert inside(tmp_path / "alias", "x.jpg") == tmp_path / "alias" / "x.jpg"
