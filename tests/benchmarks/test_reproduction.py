"""docs/reproduction.md says what is counted today, and explains what differs from the papers."""

from __future__ import annotations

import pytest

from tests.benchmarks.scripts import ROOT, Load


@pytest.mark.slow
def test_the_page_is_what_the_benchmark_makes(load: Load) -> None:
    module = load("reproduction")
    assert (ROOT / "docs" / "reproduction.md").read_text() == module.page()
    assert module.unexplained() == []
