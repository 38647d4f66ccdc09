"""The data file: what is wrong with it is said in one line, with the file and the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from detsearch.data.datafile import datafile_schema, load_datafile
from detsearch.data.formats import FORMATS
from detsearch.errors import DataError
from tests.data.makers import coco, datafile, voc, voc_object, voc_xml

SPLITS = "splits: {train: {images: 2, seed: 0}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SPLITS, "format: expected one of coco, voc, bdd, yolo, synthetic, got nothing"),
        ("format: yaml\n" + SPLITS, "format: expected one of coco, voc, bdd, yolo, synthetic, got 'yaml'"),
        ("train: images\nnames: [a]\n", "format: .*, got nothing; .*'format: yolo' and 'config: data.yaml'"),
        ("format: [coco]\n" + SPLITS, "format: expected one of"),
        ("format: synthetic\n", "splits: expected this key, got nothing"),
        ("format: synthetic\nsplits: {}\n", "splits: expected"),
        ("format: synthetic\nsplits: train\n", "splits: expected"),
        ("format: synthetic\nsplits: {a b: {images: 2, seed: 0}}\n", "splits.a b"),
        ("format: synthetic\nsplits: {..: {images: 2, seed: 0}}\n", r"splits\.\.\..*: expected"),
        ("format: synthetic\nsplits: {train: {images: two, seed: 0}}\n", r"splits\.train\.images: .*integer.*'two'"),
        (
            "format: synthetic\nsplits: {train: {images: 2, seed: 0, sead: 1}}\n",
            r"splits\.train\.sead: .*; did you mean 'seed'\?$",
        ),
        ("format: synthetic\nspits: {}\n", r"spits: expected no such key, got 'spits'; did you mean 'splits'\?$"),
        ("format: voc\nrooot: .\nspits: {}\n", r"rooot: .*; did you mean 'root'\? and 2 more$"),
        ("fromat: voc\n" + SPLITS, "format: expected one of .*, got nothing; did you mean 'format' by 'fromat'"),
        ("format: coco\nsplits: {a: {image: x}}\n", r"splits\.a\.image: .*; did you mean 'images'\? and 1 more$"),
        ("format: synthetic\ncolour: red\n" + SPLITS, "colour: expected no such key, got 'colour'"),
        ("format: synthetic\non_defect: ignore\n" + SPLITS, "on_defect: expected 'error' or 'skip', got 'ignore'"),
        ("format: coco\nroot: 3\nsplits: {a: {images: x, annotations: y}}\n", "root: expected"),
        ("format: coco\nsplits: {a: {images: x}}\n", r"splits\.a\.annotations: expected this key"),
        ("format: voc\nclasses: [a, a]\nsplits: {a: b}\n", "classes: expected class names that all differ"),
        ("format: voc\nclasses: []\nsplits: {a: b}\n", "classes: expected"),
        ("format: voc\nclasses: [1]\nsplits: {a: b}\n", r"classes\.0: expected"),
        ("format: voc\nsplits: {a: [3]}\n", r"splits\.a\.0: expected"),
    ],
)
def test_one_line_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.yaml: {message}") as caught:
        datafile(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_unknown_split_names_those_there_are(tmp_path: Path) -> None:
    data = datafile(tmp_path, "format: synthetic\nsplits: {a: {images: 1, seed: 0}, b: {images: 1, seed: 1}}\n")
    for name in ("c", "a+c", "", "a+"):
        with pytest.raises(DataError, match="splits: expected one of a, b, got "):
            data.split(name)


def test_root_is_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(load_datafile("../data.yaml").split("train")) == 2
    assert len(load_datafile(tmp_path / "data.yaml").split("train")) == 2


def test_error_counts_the_others(tmp_path: Path) -> None:
    def spoil(content: dict[str, list[dict[str, object]]]) -> None:
        for annotation in content["annotations"]:
            annotation["category_id"] = 99

    with pytest.raises(DataError, match=r"ann\.json: annotations\[0\]: .*unknown category: .* and 1 more"):
        coco(tmp_path, spoil).split("train")


def test_a_format_is_one_line_in_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(FORMATS["synthetic"]):  # type: ignore[misc]
        format: str = "mine"

    monkeypatch.setitem(FORMATS, "mine", Mine)
    assert len(datafile(tmp_path, "format: mine\n" + SPLITS).split("train")) == 2


def test_schema_tells_the_formats_apart() -> None:
    schema = datafile_schema()
    assert set(schema["discriminator"]["mapping"]) == set(FORMATS)
    for kind in FORMATS.values():
        part = schema["$defs"][kind.__name__]
        assert part["additionalProperties"] is False
        assert "format" in part["required"]
    names = schema["$defs"]["YoloFile"]["properties"]["names"]["anyOf"]
    assert [choice["type"] for choice in names] == ["array", "object", "null"]  # as a list or by number


def test_voc_split_may_be_a_name_or_names(tmp_path: Path) -> None:
    assert voc(tmp_path, voc_xml(voc_object("dog", (1, 1, 9, 9)))).splits["train"] == ("train",)
