"""Clusters that are not there. Ray, left alone, tries to connect for minutes; the command must not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detsearch.cli.main import MENDABLE
from detsearch.errors import ResourceError
from tests.runs.conftest import DATA, TINY

pytest.importorskip("ray")

from ray._private import services

from detsearch.search.execution.ray_cluster import RayExecutor

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
BOUND = 60.0
"""Seconds for the whole command, nearly all of them its imports: 18 were measured on two busy cores. `ray.init` alone
makes 20 attempts of 41 s."""


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster of this machine's is on record."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


@pytest.fixture
def closed() -> str:
    """An address of this machine at which nothing listens."""
    with socket.socket() as found:
        found.bind(("", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def refused(folder: Path, *options: str) -> str:
    """The one line with which a search ends in time, nothing written."""
    (folder / "data.yaml").write_text(yaml.safe_dump(DATA))
    recipe = {
        "data": {"file": str(folder / "data.yaml")},
        "space": {"detectors": [TINY]},
        "search": {"strategy": "all"},
        "execution": {"executor": "ray"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = folder / "study"
    command = [sys.executable, "-m", "detsearch", "search", "structure", "--recipe", str(folder / "recipe.yaml")]
    done = subprocess.run(
        [*command, "--out", str(out), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == MENDABLE, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not out.exists()
    return done.stderr


def skip_beside_a_cluster() -> None:
    if services.find_gcs_addresses():
        pytest.skip("a Ray cluster runs on this machine, which would be found")


@pytest.mark.parametrize("options", [(), ("--address", "auto")])
def test_a_machine_without_a_cluster(tmp_path: Path, options: tuple[str, ...]) -> None:
    skip_beside_a_cluster()
    line = refused(tmp_path, *options)
    assert "Ray at this machine: expected a running cluster, got Could not find any running Ray instance" in line
    assert "`ray start --head` makes one" in line


def test_a_cluster_of_this_machine_that_has_gone(tmp_path: Path, closed: str) -> None:
    """Without `ray stop`, as when the machine was switched off: Ray still has its address on record."""
    skip_beside_a_cluster()
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(closed)
    assert "Ray at this machine: expected a running cluster, got Connection refused" in refused(tmp_path)


def test_an_address_at_which_nothing_listens(tmp_path: Path, closed: str) -> None:
    line = refused(tmp_path, "--address", closed)
    assert f"Ray at {closed}: expected a running cluster, got Connection refused" in line


@pytest.mark.parametrize("address", [None, "auto"])
def test_the_address_of_the_environment(monkeypatch: pytest.MonkeyPatch, closed: str, address: str | None) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(ResourceError, match=f"Ray at {closed}: .* got Connection refused"):
        RayExecutor(address=address)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("10.0.0.1", "Invalid address format: 10.0.0.1"),
        ("10.0.0.1:port", "Malformed address port"),
        ("10.0.0.1:80", "Invalid address port 80"),
        ("local", "'local', which makes a new one"),
        ("no-such-host.invalid:6379", "resolution|not known|No address"),
    ],
)
def test_what_is_no_address(address: str, found: str) -> None:
    with pytest.raises(ResourceError, match=f"Ray at {address}: expected a running cluster, got .*({found})"):
        RayExecutor(address=address)


def test_an_address_of_rays_client(closed: str) -> None:
    with pytest.raises(ResourceError, match=f"Ray at ray://{closed}: .* got Connection refused"):
        RayExecutor(address=f"ray://{closed}")
