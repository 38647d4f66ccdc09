"""optuna's samplers as strategies, to compare others with: NSGA-II (Deb et al. 2002) and the tree-structured Parzen
estimator for several objectives (Ozaki et al., "Multiobjective Tree-structured Parzen Estimator", 2022).

A sampler is made anew for each proposal and told the whole history, so that nothing but the arguments decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, create_trial

from detsearch.arch.spaces.base import Space
from detsearch.arch.spec import DetectorSpec
from detsearch.search.objective import Objective
from detsearch.search.pareto import measured
from detsearch.search.random_search import sample_unseen
from detsearch.search.trial import RANDOM, Proposal, Trial, TrialState, taken

PARTS: Final = ("backbone", "neck", "head", "norm", "input")
"""What a sampler chooses, each from the choices of a space; proposals go with their head."""
ASKED: Final = 30
"""So often a sampler is asked for a candidate that is valid and new, before one is drawn."""
_GENERATION: Final = "NSGAIISampler:generation"

_State: Final = optuna.trial.TrialState


@dataclass(frozen=True, kw_only=True)
class OptunaSampler:
    """`initial` is what the sampler draws before it begins: the population of NSGA-II, the first trials of TPE.

    Values are those of the fidelity that most trials have; trials outside of the space tell it nothing. Other settings
    are optuna's defaults; but when TPE names what was tried, it is asked for draws from its model in place of the best
    of 24.
    """

    space: Space
    objectives: tuple[Objective, ...]
    sampler: Literal["nsga2", "tpe"]
    initial: int = 8

    def propose(self, history: Sequence[Trial], running: Sequence[Trial], rng: np.random.Generator) -> Proposal | None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it greets every study on stderr
        seed = int(rng.integers(2**31))
        study = optuna.create_study(
            directions=["maximize" if objective.maximise else "minimize" for objective in self.objectives],
            sampler=self._sampler(seed),
        )
        study.add_trials(self._frozen(history, running))
        seen = taken((*history, *running))
        for attempt in range(ASKED):
            if attempt == 1 and self.sampler == "tpe":
                # The best of its candidates is the same member again and again in a small space.
                study.sampler = TPESampler(n_startup_trials=self.initial, n_ei_candidates=1, seed=seed)
            asked = study.ask(self._distributions)
            spec = self._members.get(tuple(asked.params[part] for part in PARTS))
            if spec is not None and spec not in seen:
                return Proposal(spec=spec, origin=self.sampler)
            study.tell(asked, state=_State.FAIL)
        spec = sample_unseen(self.space, seen, rng)
        return None if spec is None else Proposal(spec=spec, origin=RANDOM)

    def _sampler(self, seed: int) -> BaseSampler:
        if self.sampler == "nsga2":
            return NSGAIISampler(population_size=max(2, self.initial), seed=seed)
        return TPESampler(n_startup_trials=self.initial, seed=seed)

    def _frozen(self, history: Sequence[Trial], running: Sequence[Trial]) -> list[FrozenTrial]:
        history = [trial for trial in history if self.space.contains(trial.spec)]
        fidelities = Counter(trial.fidelity for trial in history if trial.state is TrialState.COMPLETE)
        usual = max(fidelities, key=lambda fidelity: (fidelities[fidelity], fidelity)) if fidelities else None
        found = []
        for count, trial in enumerate(measured(history, self.objectives, usual)):
            values = [trial.values()[objective.name] for objective in self.objectives]
            generation = {_GENERATION: count // max(2, self.initial)} if self.sampler == "nsga2" else {}
            found.append(self._trial(trial, state=_State.COMPLETE, values=values, system_attrs=generation))
        inside = (trial for trial in running if self.space.contains(trial.spec))
        return [*found, *(self._trial(trial, state=_State.RUNNING) for trial in inside)]

    def _trial(self, trial: Trial, **facts: object) -> FrozenTrial:
        choices = dict(zip(PARTS, self._choices(trial.spec), strict=True))
        return create_trial(params=choices, distributions=self._distributions, **facts)  # type: ignore[arg-type]

    @cached_property
    def _numbers(self) -> tuple[dict[Hashable, int], ...]:
        """For each part, the number of each of its choices."""
        found: tuple[dict[Hashable, int], ...] = tuple({} for _ in PARTS)
        for spec in self.space.all():
            for numbers, choice in zip(found, made_of(spec), strict=True):
                numbers.setdefault(choice, len(numbers))
        return found

    @cached_property
    def _members(self) -> dict[tuple[int, ...], DetectorSpec]:
        return {self._choices(spec): spec for spec in self.space.all()}

    @cached_property
    def _distributions(self) -> dict[str, BaseDistribution]:
        return {
            part: CategoricalDistribution(range(len(numbers)))
            for part, numbers in zip(PARTS, self._numbers, strict=True)
        }

    def _choices(self, spec: DetectorSpec) -> tuple[int, ...]:
        return tuple(numbers[choice] for numbers, choice in zip(self._numbers, made_of(spec), strict=True))


def made_of(spec: DetectorSpec) -> tuple[Hashable, ...]:
    """A detector's choices, in the order of `PARTS`."""
    net = spec.network
    return net.backbone, net.neck, (net.proposals, net.head), net.norm, spec.input
