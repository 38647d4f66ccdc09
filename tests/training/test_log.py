from __future__ import annotations

from pathlib import Path

import pytest

from detsearch.errors import ResourceError
from detsearch.training import log


def test_trim_drops_later_epochs_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for epoch in (1, 2, 3):
        log.append(path, {"epoch": epoch})
    with path.open("a") as file:
        file.write('{"epoch": 4, "lo')
    log.trim(path, 2)
    assert path.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.jsonl"]
    log.trim(tmp_path / "absent.jsonl", 2)


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="gone"):
        log.append(tmp_path / "gone" / "log.jsonl", {"epoch": 1})


def test_describe() -> None:
    record = {"epoch": 2, "lr": 0.01, "loss": 0.5, "losses": {"boxes": 0.2, "classes": 0.3}, "metrics": {"ap": 0.1234}}
    assert log.describe(record, 9) == "epoch 2/9, lr 0.01, loss 0.5 (boxes 0.2, classes 0.3), ap 0.1234"
