"""Loading is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.benchmarks.scripts import Load


def test_loading_is_timed(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images of an epoch, the first epoch left out; two batches an iteration."""
    data, out = tmp_path / "data.yaml", tmp_path / "found.json"
    data.write_text(yaml.safe_dump({"format": "synthetic", "splits": {"train": {"images": 6, "seed": 0}}}))
    clock = iter(range(1000))
    loading = load("loading")
    monkeypatch.setattr(loading, "time", SimpleNamespace(process_time=lambda: float(next(clock))))
    options = ["--size", "64x64", "--batch", "3", "--seconds", "0", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["loading.py", str(data), *options])
    loading.main()
    found = json.loads(out.read_text())
    assert (found["images"], found["epochs"]) == (6, 3)
    assert found["ms"]["median"] == pytest.approx(1000 / 6)
    assert found["search_minutes"] == pytest.approx(12_500 * 2 * 3 / 6 / 60)
