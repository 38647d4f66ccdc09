from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from detsearch.search.tablefile import write_table
from tests.benchmarks.scripts import ROOT, Load
from tests.search.generated import CHOICES, generated

SMALL = {**CHOICES, "backbone": CHOICES["backbone"][:3], "neck": CHOICES["neck"][1:]}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "small.json.gz"
    write_table(generated(0, choices=SMALL), path)
    return path


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """A script of benchmarks/ as a module, which leaves the threads of this process alone; every test has its own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for script in (ROOT / "benchmarks").glob("*.py"):
        monkeypatch.delitem(sys.modules, script.stem, raising=False)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)

    return importlib.import_module
