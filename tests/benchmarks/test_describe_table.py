"""The page that describes a table."""

from __future__ import annotations

from pathlib import Path

from detsearch.search.tablefacts import true_front
from detsearch.search.tablefile import read_table
from tests.benchmarks.scripts import ran
from tests.search.generated import OBJECTIVES


def test_a_table_is_described(table: Path) -> None:
    ran("describe_table", str(table))
    text = table.with_name("small.md").read_text()
    world = read_table(table)
    assert f"{len(world.rows)} detectors, 2 seeds, scored after 1, 2, 4, 6, 8, 12 epochs." in text
    matrix = [line for line in text.splitlines() if line.startswith("| 12 |")]
    assert matrix[1].endswith("| 1.000 |"), "with itself"
    assert "The larger detector is less accurate in" in text
    for row, _ in true_front(world, OBJECTIVES):
        assert f"`{row.code}` |" in text
