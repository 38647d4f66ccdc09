"""Models are asked for what they were not shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detsearch.search.table import Training
from tests.benchmarks.scripts import Load
from tests.search.generated import generated


def test_surrogates_are_asked_for_what_was_not_trained(load: Load) -> None:
    surrogates = load("surrogates")
    table = generated(0)
    row = table.rows[0]
    seen = {**row.trainings, 0: Training({4: {"ap": 0.1, "ap50": 0.2, "ar_10": 0.4}})}
    young = surrogates.young(replace(table, rows=(replace(row, trainings=seen), *table.rows[1:])), "ap", 4)
    assert young[:2] == pytest.approx([0.275, table.rows[1].trainings[0].figures[4]["ap"]]), (
        "AP alone where that is all"
    )
    correlation, error, density, _ = surrogates.scored(table, surrogates.ours(table), 4, 16, 48, 0, "ap")
    truth = np.array([np.mean([t.figures[12]["ap"] for t in row.trainings.values()]) for row in table.rows])
    assert correlation > 0.7
    assert error < truth.std()
    # Knowing no more than the distribution of all
    assert density > -0.5 - np.log(truth.std() * np.sqrt(2 * np.pi))


def test_the_page_says_what_was_asked(load: Load, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our own model alone: the peers are not installed for the tests."""
    surrogates = load("surrogates")
    monkeypatch.setattr(surrogates, "MODELS", {"ours": surrogates.ours})
    monkeypatch.setattr(surrogates, "version", lambda _: "none")
    monkeypatch.setattr(surrogates, "SHOWN", ((8, 0), (4, 8)))
    out = table.parent / "out"
    monkeypatch.setattr("sys.argv", ["surrogates", str(table), "--drawings", "2", "--out", str(out)])
    surrogates.main()
    page = (out / "small.md").read_text()
    assert "Early is after 4 of 12 epochs." in page
    assert "| 4 | 8 | ours | " in page
    means = json.loads((out / "small.json").read_text())["means"]["ours"]
    assert {name: len(found) for name, found in means.items()} == {"8+0": 4, "4+8": 4}
