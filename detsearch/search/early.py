"""What a model takes for a figure while a training is young: a weighted sum of figures that tell more about its end.

Early on objects are found before their boxes are placed and scored well. AP, which asks for all three, then mostly
says how fast a detector learns; recall and a loose IoU say more about what will become of it. On the recorded tables
AR at 10 boxes of one training has a rank correlation with the final AP of another, among the best two fifths, of 0.63
and 0.75 where those on drawn shapes pause by default, AP itself of 0.44 and 0.57; on BCCD of 0.35 at the second pause,
AP of 0.31, and at the first one neither tells the best apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, TypeAlias

from detsearch.search.objective import Objective, vector

Early: TypeAlias = "Mapping[str, Mapping[str, float]]"
"""By objective, the weights of the figures that stand for it early; one that is not named stands for itself."""

EARLY: Final[Early] = {
    f"{kind}ap": {f"{kind}ap": 0.25, f"{kind}ap50": 0.25, f"{kind}ar_10": 0.5} for kind in ("", "mask_")
}
"""Precision and recall in equal parts. It was chosen among seven figures and sums, all of them better than AP when
the tables had one seed and trainings paused later. With both seeds and the pauses of now no difference to AP is clear:
124 epochs to 95 % against 144 on BCCD, 74 against 65 on drawn shapes (docs/searching.md)."""


def early_value(values: Mapping[str, float], objective: Objective, early: Early) -> float:
    """What stands for an objective, for minimisation; the objective itself where some figure is missing."""
    own = float(vector(values, [objective])[0])
    weights = early.get(objective.name)
    if not weights:
        return own
    found = sum(weight * values.get(name, math.nan) for name, weight in weights.items())
    if not math.isfinite(found):
        return own
    return -found if objective.maximise else found
