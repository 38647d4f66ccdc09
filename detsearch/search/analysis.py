"""What a finished search says of detectors: which of their properties go with accuracy, and which choices matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from detsearch.arch.spaces.base import Space
from detsearch.errors import SpecError
from detsearch.search.correlation import Correlation, correlate
from detsearch.search.factors import FACTORS, choices, code_factors
from detsearch.search.importance import Effect, Importance, effects, importances
from detsearch.search.objective import Objective
from detsearch.search.pareto import front, measured
from detsearch.search.trial import Trial

ACCURACY: Final = "ap"
"""What is looked at where no objective is maximised."""
ALL: Final = "all"
FRONT: Final = "front"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Correlations over some trials: `ALL` that are compared or those of the `FRONT`, of one `structure` or, None, of
    the study."""

    kind: str
    structure: str | None
    trials: tuple[int, ...]
    correlations: Mapping[str, Correlation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Of the complete trials of a study that can be compared, `trials` in number, each trained for `epochs`.

    `groups` relate the `FACTORS` of backbones to `accuracy`; `without_code` says which trials have none, and why.
    `importances` and `effects` are about the choices of which detectors are made; empty for a search inside of
    structures, which makes none of them.
    """

    accuracy: str
    epochs: int
    trials: int
    groups: tuple[Group, ...] = ()
    without_code: Mapping[int, str] = field(default_factory=dict)
    importances: tuple[Importance, ...] = ()
    effects: Mapping[str, Sequence[Effect]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what has no figure is None, and its ``reason`` stands beside it."""
        return {
            **asdict(self),
            "factors": {name: about for name, (_, about) in FACTORS.items()},
            "without_code": {str(number): reason for number, reason in self.without_code.items()},
        }


def analyse(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    structures: Mapping[str, Space] | None = None,
    *,
    inside: bool = False,
) -> Analysis | None:
    """The analysis of a study's trials; None where none is complete. `structures` are those inside of which it
    searched, by name, each with its space; `inside` says that it searched inside of any."""
    accuracy = next((objective.name for objective in objectives if objective.maximise), ACCURACY)
    compared = [t for t in measured(trials, objectives) if np.isfinite(t.values().get(accuracy, np.nan))]
    if not compared:
        return None
    factors, without = _factors(compared)
    best = {trial.number for trial in front(compared, objectives)}
    groups = [
        _group(ALL, None, compared, factors, accuracy),
        _group(FRONT, None, [trial for trial in compared if trial.number in best], factors, accuracy),
    ]
    for name, space in (structures or {}).items():
        members = [trial for trial in compared if space.contains(trial.spec)]
        groups.append(_group(ALL, name, members, factors, accuracy))
        groups.append(_group(FRONT, name, front(members, objectives), factors, accuracy))
    chosen = {} if inside else choices([trial.spec for trial in compared])
    names = dict.fromkeys([accuracy, *(objective.name for objective in objectives)])
    figures = {name: np.array([trial.values()[name] for trial in compared]) for name in names}
    return Analysis(
        accuracy=accuracy,
        epochs=compared[0].fidelity.epochs,
        trials=len(compared),
        groups=tuple(groups) if factors else (),
        without_code=without,
        importances=tuple(importances(chosen, figures)) if chosen else (),
        effects=effects(chosen, figures),
    )


def _factors(trials: Sequence[Trial]) -> tuple[dict[int, dict[str, float]], dict[int, str]]:
    """By trial its factors, or why it has none."""
    found, without = {}, {}
    for trial in trials:
        try:
            found[trial.number] = code_factors(trial.spec)
        except SpecError as error:
            without[trial.number] = f"{error.received} has no block code"
    return found, without


def _group(
    kind: str,
    structure: str | None,
    trials: Sequence[Trial],
    factors: Mapping[int, Mapping[str, float]],
    accuracy: str,
) -> Group:
    coded = [trial for trial in trials if trial.number in factors]
    figure = np.array([trial.values()[accuracy] for trial in coded], dtype=np.float64)
    return Group(
        kind=kind,
        structure=structure,
        trials=tuple(trial.number for trial in coded),
        correlations={
            name: correlate(np.array([factors[t.number].get(name, np.nan) for t in coded], dtype=np.float64), figure)
            for name in FACTORS
        },
    )
