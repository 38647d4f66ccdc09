"""``detsearch study latency``: the detectors of a study measured again, one after the other and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import Field, ValidationError

from detsearch.arch.spec import DetectorSpec
from detsearch.cost.latency import device_name
from detsearch.errors import RecipeError, StudyError
from detsearch.files import write_json
from detsearch.runs.candidate import TrainedCandidates
from detsearch.runs.device import resolve_device
from detsearch.runs.folders import RECIPE
from detsearch.runs.recipe import load_recipe
from detsearch.runs.search import read_data_summary
from detsearch.runs.settings import LatencySettings, SearchRecipe
from detsearch.search.ledger import read_study
from detsearch.search.trial import Trial, TrialState
from detsearch.types import Latency, LatencyProtocol
from detsearch.yamlfile import Section, explain

FORMAT: Final = "detsearch latencies"
HINT: Final = "write such files with `detsearch study latency`"
MAX_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class Latencies:
    """Latencies by the detectors' codes; `how` says on which device and with which settings they were measured, and
    `rounds` how often each was."""

    how: dict[str, Any]
    by_code: dict[str, Latency]
    rounds: dict[str, int]

    @property
    def unsteady(self) -> list[str]:
        return [code for code, latency in self.by_code.items() if not latency.steady]


class _Entry(Section):
    median_ms: float = Field(gt=0)
    iqr_ms: float = Field(ge=0)
    steady: bool
    protocol: dict[str, int | str]
    rounds: int = Field(default=1, ge=1)


class _File(Section):
    format: Literal["detsearch latencies"]
    version: Literal[1]
    how: dict[str, Any]
    latencies: dict[str, _Entry] = Field(max_length=100_000)


def measure_again(
    folder: Path,
    out: Path,
    *,
    device: str | None = None,
    settings: Sequence[str] = (),
    rounds: int = 1,
    on_measured: Callable[[int, int, str, Latency], None] = lambda *_: None,
) -> Latencies:
    """Measure every detector that the study in `folder` tried, on its device or another, and keep the results in `out`.

    `settings` change the recipe's (``latency.seconds=2``). The order is shuffled, so that a drift of the machine is no
    effect of structure; and all are measured once before any is measured again, in each of so many `rounds`, of which
    the lowest steady median counts: what else a machine does only adds to a latency. `out` is replaced after each
    measurement; called again, it goes on with what is missing there, then once more with what was not steady.
    RecipeError for settings of anything but how latency is measured; StudyError where `out` holds measurements of
    another device or kind.
    """
    for text in settings:
        if text.partition("=")[0].partition(".")[0].strip() != "latency":
            raise RecipeError("--set", "latency.FIELD=VALUE, as nothing else is done again", repr(text))
    study = read_study(folder)
    options = {} if device is None else {"device": device}
    recipe = load_recipe(SearchRecipe, folder / RECIPE, settings, options)
    classes = read_data_summary(folder)[recipe.data.train]["classes"]
    place = resolve_device(recipe.device)
    how = {"device": place, "device_name": device_name(place), **_plain(recipe.latency)}
    known = Latencies(how, {}, {})
    if out.exists():
        known = read_latencies(out)
        if known.how != how:
            hint = "name another file, or delete it"
            raise StudyError(str(out), f"latencies measured with {json.dumps(how)}", json.dumps(known.how), hint)
    specs = {trial.code: trial.spec for trial in study.trials if _tried(trial)}
    candidates = TrainedCandidates(recipe, len(classes), place)
    found, times = dict(known.by_code), {**dict.fromkeys(specs, 0), **known.rounds}
    todo = [code for turn in range(rounds) for code in _shuffled([c for c in specs if times[c] <= turn], turn)]
    todo += _shuffled([code for code in known.unsteady if code in specs and code not in todo], rounds)
    for number, code in enumerate(todo, start=1):
        latency = _measured(candidates, specs[code])
        found[code] = min((latency, found.get(code, latency)), key=lambda one: (not one.steady, one.median_ms))
        times[code] += 1
        entries = {name: {**asdict(one), "rounds": times[name]} for name, one in found.items()}
        write_json(out, {"format": FORMAT, "version": 1, "how": how, "latencies": entries})
        on_measured(number, len(todo), code, latency)
    return Latencies(how, found, times)


def read_latencies(path: Path) -> Latencies:
    """What `measure_again` wrote; StudyError, in one line, for whatever is wrong with it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise StudyError(str(path), f"a file of at most {MAX_BYTES} bytes", "more")
        found = _File.model_validate(json.loads(content))
        entries = {code: _latency(entry) for code, entry in found.latencies.items()}
    except OSError as error:
        raise StudyError(str(path), "a file of latencies", error.strerror or str(error)) from error
    except ValidationError as problem:
        raise explain(problem, str(path), StudyError, _File) from None
    except (ValueError, RecursionError, TypeError) as error:
        raise StudyError(str(path), "latencies as JSON", str(error), HINT) from error
    return Latencies(found.how, entries, {code: entry.rounds for code, entry in found.latencies.items()})


def _latency(entry: _Entry) -> Latency:
    protocol = LatencyProtocol(**entry.protocol)  # type: ignore[arg-type]  # a wrong name is a TypeError
    return Latency(median_ms=entry.median_ms, iqr_ms=entry.iqr_ms, steady=entry.steady, protocol=protocol)


def _tried(trial: Trial) -> bool:
    """Not so what only told its cost, and what was out by what it has, without a measurement."""
    unmeasured = trial.cost is not None and trial.cost.latency is None
    return trial.state is not TrialState.COSTED and not unmeasured


def _measured(candidates: TrainedCandidates, spec: DetectorSpec) -> Latency:
    latency = candidates.cost(spec).latency
    assert latency is not None, "candidates are measured"
    return latency


def _shuffled(codes: Sequence[str], turn: int) -> list[str]:
    order = np.random.default_rng((len(codes), turn)).permutation(len(codes))
    return [codes[index] for index in order]


def _plain(settings: LatencySettings) -> dict[str, Any]:
    found: dict[str, Any] = settings.model_dump(mode="json")
    return found
