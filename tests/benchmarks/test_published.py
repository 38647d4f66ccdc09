"""Latencies beside published ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from detsearch.arch.presets import resolve
from tests.benchmarks.scripts import Load


def test_published_latencies_are_compared(tmp_path: Path, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """On slim stand-ins: every one is divided by the base in the same round; what was published stands beside."""
    published = load("published")
    base, other = "retinanet_slim@64x64", "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/rpn/2fc(width=16)@96x64"
    out = tmp_path / "deep" / "published.json"
    published.main(["--base", base, "--detectors", other, "--rounds", "3", "--threads", "1", "--out", str(out)])
    found = json.loads(out.read_text())
    first, second = found["rows"]
    assert (first["detector"], first["ratio"], first["rounds"]) == (base, 1.0, 3)
    assert second["tensor"] == "96x64"
    assert second["ratio_low"] <= second["ratio"] <= second["ratio_high"]
    assert second["published_ms"] is None
    assert str(tmp_path) not in out.read_text()
    assert {"command", "commit", "date", "device", "seed"} <= found.keys()
    assert f"| {other} | 96x64 |" in capsys.readouterr().out

    ours, e0 = (SimpleNamespace(name=name, spec=resolve(name)) for name in (published.BASE, "E0"))
    row = published.rows([ours, e0], {published.BASE: [0.2, 0.4, 0.2], "E0": [0.1, 0.1, 0.1]}, published.BASE)[1]
    assert row["ratio"] == pytest.approx(0.5)
    assert row["published_ratio"] == pytest.approx(24.5 / 43.6)
    assert set(published.DETECTORS) >= {"E0", "E5", "retinanet_r50_fpn@800x600"}
