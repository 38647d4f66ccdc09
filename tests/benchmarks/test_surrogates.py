"""Models are asked for what they were not shown."""

from __future__ import annotations

from dataclasses import replace

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
    correlation, error, density, _ = surrogates.scored(table, surrogates.ours(table), 16, 48, 0, "ap")
    truth = np.array([np.mean([t.figures[12]["ap"] for t in row.trainings.values()]) for row in table.rows])
    assert correlation > 0.7
    assert error < truth.std()
    # Knowing no more than the distribution of all
    assert density > -0.5 - np.log(truth.std() * np.sqrt(2 * np.pi))
