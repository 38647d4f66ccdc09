"""docs/reproduction.md says what is counted today, and explains what differs from the papers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_page_is_what_the_benchmark_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("reproduction", ROOT / "benchmarks" / "reproduction.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reproduction", module)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "reproduction.md").read_text() == module.page()
    assert module.unexplained() == []
