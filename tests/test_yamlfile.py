"""YAML from users: plain, bounded, without silent surprises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detsearch import yamlfile
from detsearch.errors import DataError, RecipeError
from detsearch.yamlfile import MAX_BYTES, read_yaml


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "expected YAML, got while parsing"),
        (b"a: 1\nb: 2\na: 3\n", "key 'a' stands twice"),
        (b"a: {b: 1, b: 2}\n", "key 'b' stands twice"),
        (b"a: &x [1]\nb: *x\n", "aliases"),
        (b"- 1\n", "'key: value' lines, got a list"),
        (b"", "'key: value' lines, got nothing"),
        (b"a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        (b"a: \xff\n", "UTF-8 text, got byte 3"),
        (b"a: 2001-99-99\n", "expected YAML"),
        (b"[" * 1500, "expected YAML"),
        (b"#" * (MAX_BYTES + 1), "at most"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=rf"x\.yaml: .*{message}") as caught:
        read_yaml(path, RecipeError)
    assert "\n" not in str(caught.value)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(DataError, match="a readable YAML file"):
            read_yaml(path, DataError)


def test_what_the_system_states_no_size_of_is_read_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamlfile, "MAX_BYTES", 100)
    if not Path("/dev/fd").exists():
        pytest.skip("pipes have no paths here")
    for text, refused in ((b"a: 1\n", False), (b"a: 1\n" + b"#" * 100, True)):
        reader, writer = os.pipe()
        os.write(writer, text)
        os.close(writer)
        path = Path(f"/dev/fd/{reader}")
        assert path.stat().st_size == 0
        if refused:
            with pytest.raises(RecipeError, match="at most 100 bytes, got more"):
                read_yaml(path, RecipeError)
        else:
            assert read_yaml(path, RecipeError) == {"a": 1}
        os.close(reader)


@pytest.mark.parametrize("name", ["\ud800.yaml", "a\0b.yaml"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(RecipeError, match="a readable YAML file"):
        read_yaml(Path(name), RecipeError)


def test_nested_mappings_may_repeat_each_others_keys(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: {x: 1}\nb: {x: 2}\n")
    assert read_yaml(tmp_path / "x.yaml", DataError) == {"a": {"x": 1}, "b": {"x": 2}}
