"""Supernets beside each other, small ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.scripts import ran


def test_supernets_are_compared(tmp_path: Path) -> None:
    network = "basicblock_8_1-2-2-2(stem=7x7)/fpn(width=16)/fcos"
    small = ["--size", "64x64", "--batch", "1", "--width", "8", "--operations", "rf5", "--seconds", "0"]
    ran("supernet", "--network", network, *small, "--threads", "1", "--out", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["rows"]) == 10
    assert [row["ratio"] for row in found["ratios"]][-3:] == ["alpha alone", "edges together", "all together"]
    kept = [row["kept"] for row in found["ratios"] if "kept" in row]
    assert max(kept[:2]) < 1
    assert kept[2:] == pytest.approx([1, 1], abs=0.1)
