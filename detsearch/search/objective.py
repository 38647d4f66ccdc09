"""What candidates are compared by, and what they must not exceed, with the text forms that recipes and ledgers use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from detsearch.errors import RecipeError

_COCO: Final = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)
OF_MASKS: Final = frozenset(f"mask_{name}" for name in _COCO)
"""What detectors with a mask branch have, beside the same of boxes."""
MAXIMISED: Final = OF_MASKS | {*_COCO, "voc_ap50"}
MINIMISED: Final = frozenset({"params", "macs", "backbone_macs", "memory_access", "latency_ms", "train_seconds"})

_NAME = r"[a-z][a-z0-9_]*"


@dataclass(frozen=True, slots=True)
class Objective:
    """One figure to be made as large (`maximise`) or as small as possible; text form ``ap:max``, ``latency_ms:min``."""

    name: str
    maximise: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``name`` or ``name:max|min``; RecipeError, also where a name without direction is not a known one."""
        match = re.fullmatch(rf"({_NAME})(?::(min|max))?", text.strip())
        if match is None:
            raise RecipeError("objective", "NAME:max or NAME:min, such as ap:max", repr(text))
        name, direction = match.groups()
        if direction is None:
            if name not in MAXIMISED | MINIMISED:
                raise RecipeError("objective", f"{name}:max or {name}:min", repr(text), "say which way is better")
            return cls(name, name in MAXIMISED)
        return cls(name, direction == "max")

    def __str__(self) -> str:
        return f"{self.name}:{'max' if self.maximise else 'min'}"


@dataclass(frozen=True, slots=True)
class Limit:
    """An upper bound of a cost, checked before training; text form ``latency_ms<=30``."""

    name: str
    upper: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``name<=number``; RecipeError on anything else."""
        match = re.fullmatch(rf"({_NAME})\s*<=\s*(\S+)", text.strip())
        if match is None:
            raise RecipeError("limit", "NAME<=NUMBER, such as latency_ms<=30", repr(text))
        try:
            upper = float(match[2])
        except ValueError:
            upper = math.nan
        if not math.isfinite(upper):
            raise RecipeError("limit", "NAME<=NUMBER with a finite number", repr(text))
        return cls(match[1], upper)

    def __str__(self) -> str:
        return f"{self.name}<={_exact(self.upper)}"

    def broken_by(self, costs: Mapping[str, float]) -> str | None:
        """Why a candidate with these costs is out, None where it is not.

        RecipeError where the cost is not known before training: such a limit can't be kept.
        """
        if self.name not in costs:
            raise RecipeError(f"limit {self}", f"a cost known before training ({', '.join(sorted(costs))})", self.name)
        if costs[self.name] <= self.upper:
            return None
        return f"{self.name}={_exact(costs[self.name])} is above the limit {self}"


def _exact(number: float) -> str:
    """The shortest text that reads as this number again: rounded, a limit would be another one."""
    return repr(float(number)).removesuffix(".0")


def check_objectives(objectives: Sequence[Objective]) -> None:
    """RecipeError unless there is at least one objective and none is named twice."""
    names = [objective.name for objective in objectives]
    if not names:
        raise RecipeError("objectives", "at least one, such as ap:max", "none")
    for name in names:
        if names.count(name) > 1:
            raise RecipeError("objectives", "every name once", f"{name} {names.count(name)} times")


def vector(values: Mapping[str, float], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """The values as a (len(objectives),) vector for minimisation: maximised ones change sign, missing ones are NaN."""
    signed = [(-1.0 if o.maximise else 1.0) * values.get(o.name, np.nan) for o in objectives]
    return np.array(signed, dtype=np.float64)
