"""What every test shares: one thread, lock files of its own, reproducible hypothesis, the real data."""

from __future__ import annotations

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch; pytest-xdist uses the cores

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from detsearch.arch.catalogue import catalogue

TOYS = Path(__file__).resolve().parent / "toy_package"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session", autouse=True)
def _own_lock_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measurements of the tests and of a search that runs beside them do not wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETSEARCH_LOCK_DIR", str(tmp_path_factory.mktemp("locks")))
        yield


def _real_data(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"real data absent: {folder} is not a folder")
    return folder


@pytest.fixture(scope="session")
def bccd() -> Path:
    """Folder of the blood-cell images, Pascal VOC."""
    return _real_data("bccd")


@pytest.fixture(scope="session")
def tiny_coco() -> Path:
    """Folder of the 50 + 50 COCO images."""
    return _real_data("tiny_coco")


def _forget_toys() -> None:
    catalogue.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "toy_detectors"]:
        del sys.modules[name]


@pytest.fixture
def toy_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """tests/toy_package as if installed: a backbone (`toynet`) and a head (`centre`) of a third party, for this process
    and its children."""
    monkeypatch.syspath_prepend(str(TOYS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TOYS), os.environ.get("PYTHONPATH")])))
    _forget_toys()
    yield TOYS
    monkeypatch.undo()
    _forget_toys()
