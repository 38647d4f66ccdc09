"""Does a search in two stages find better detectors than one in a single stage, for the same training?

    python benchmarks/two_stage.py --out docs/results/two-stage

Two arms begin with the same search of structures (the first stage of recipes/two-stage.yaml). *Two stages* goes on
inside of some structures of its front (the second stage); *one stage* goes on with the same search of structures until
its further candidates have cost as many seconds of training as the second stage's (measured, evaluation left out; the
last candidates may go beyond, to the favour of this arm, and the record has the ratio). Structures that the second
stage begins with are trained in it again, as its baselines: that is paid for too. Of all that an arm trained, up to
--count candidates along its front of AP on val against latency are trained again from scratch, in the same way for both
arms, with --seeds seeds, and their latencies are measured again when nothing else runs. Of these the ones that are on
the front by val are reported by AP on test: for each latency up to a tenth more than the largest, the one that val
chose for it, which is the dearest that is no slower, and the mean of that AP over all these latencies (0 where there is
none). It is the area below one reference point, AP 0 and that latency, with no second choice by test.

Each arm is searched once. Intervals are over the seeds of the final trainings and know nothing of the chance of a
search: they say how sure it is that these two searches found sets of different worth, not that another pair of searches
would. For that, repeat the command with other seeds of the recipe (`--set structure.seed=1 modules.seed=1`), each with
--runs and --out of its own.

About two hours on two cores of a CPU. Every part is kept in --runs, and the command goes on where it was stopped;
`--until control` and the like do less. Writes two-stage.json, tables.md and fronts.svg, and the reports of both stages
as Markdown and pictures (matplotlib).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from provenance import provenance
from pydantic import BaseModel

from detsearch.errors import RecipeError
from detsearch.files import write_json, write_text
from detsearch.intervals import Interval, mean_interval
from detsearch.report.study import write_report
from detsearch.runs.compare import compare
from detsearch.runs.comparison import COSTS
from detsearch.runs.folders import METRICS
from detsearch.runs.recipe import override
from detsearch.runs.search import search_structure
from detsearch.runs.settings import BudgetSettings, CompareRecipe, Run, SearchRecipe, StagesRecipe
from detsearch.runs.stages import first_stage, second_stage
from detsearch.search.ledger import read_study
from detsearch.search.objective import Objective
from detsearch.search.pareto import front, matrix, non_dominated, spread
from detsearch.search.study import Ending, StudyEvent, added_epochs, counts
from detsearch.search.trial import Trial, TrialInterrupted
from detsearch.yamlfile import read_yaml

PARTS: Final = ("structure", "modules", "control", "final", "report")
ARMS: Final = {"two stages": ("structure", "modules"), "one stage": ("control",)}
"""What each arm trained, by the folders of its studies; the control's holds the first stage too."""
AXES: Final = (Objective.parse("ap:max"), Objective.parse("latency_ms:min"))
TEST: Final = "test"
SCOPE: Final = (
    "Each arm was searched once: the intervals do not hold the chance of a search, so the difference is one between "
    "these two searches, and no proof for two stages in general."
)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def searched(recipe: SearchRecipe, folder: Path) -> Ending:
    def tell(event: StudyEvent) -> None:
        if event.trial is not None and event.kind == "trial" and event.trial.state.final:
            say(f"{folder.name} {event.trial.number}: {event.trial.state} {event.trial.code}")

    ending = search_structure(recipe, folder, on_event=tell).ending
    if ending is Ending.INTERRUPTED:
        raise TrialInterrupted("stopped on request")
    return ending


def control(recipe: SearchRecipe, runs: Path) -> None:
    """Go on with a copy of the first stage until it has cost as much as the second."""
    folder, copied = runs / "control", runs / "control.partial"
    if not folder.exists():
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(runs / "structure", copied)
        copied.rename(folder)
    goal = training_seconds(trials_of(runs, "structure")) + training_seconds(trials_of(runs, "modules"))
    while training_seconds(trials_of(runs, "control")) < goal:
        trained = sum(map(counts, trials_of(runs, "control")))
        budget = BudgetSettings(trials=trained + recipe.execution.workers)
        if searched(recipe.model_copy(update={"budget": budget}), folder) is not Ending.TRIALS:
            say("control: nothing is left to try")
            return


def trials_of(runs: Path, *names: str) -> list[Trial]:
    return [trial for name in names for trial in read_study(runs / name).trials]


def training_seconds(trials: Sequence[Trial]) -> float:
    return sum(trial.metrics.values["train_seconds"] for trial in trials if trial.metrics is not None)


def training_macs(trials: Sequence[Trial]) -> float:
    """What trainings cost whatever the machine's pace was: multiply-accumulates of a forward pass times epochs."""
    done = (trial for trial in trials if trial.metrics is not None and trial.cost is not None)
    return sum(float(trial.cost.macs) * added_epochs(trial.fidelity, trial.continues, trials) for trial in done)


def chosen(runs: Path, count: int) -> dict[str, list[str]]:
    """By arm, the codes of the candidates that are trained again."""
    found = {}
    for arm, studies in ARMS.items():
        best = front(trials_of(runs, *studies), AXES)
        found[arm] = list(dict.fromkeys(best[number].code for number in spread(matrix(best, AXES), count)))
    return found


def final_recipe(recipe: SearchRecipe, codes: Sequence[str], options: argparse.Namespace) -> CompareRecipe:
    shared = {name: getattr(recipe, name) for name in Run.model_fields if name != "seed"}
    base = {k: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for k, value in shared.items()}
    base["data"][TEST] = options.test
    base["training"]["epochs"] = options.epochs
    return CompareRecipe(
        base=base,
        arms={arm_of(code): {"detector": code} for code in codes},
        seeds=list(range(options.seeds)),
        latency=True,
        workers=recipe.execution.workers,
    )


def arm_of(code: str) -> str:
    """A name that stays with a detector, also where others are chosen."""
    return hashlib.sha256(code.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Retrained:
    """A candidate that was trained again: AP on val and on test by seed, and its latency."""

    code: str
    val: tuple[float, ...]
    test: tuple[float, ...]
    latency_ms: float


def final_figures(folder: Path, recipe: CompareRecipe) -> dict[str, Retrained]:
    costs = json.loads((folder / COSTS).read_text())
    found = {}
    for arm, fields in recipe.arms.items():
        runs = [json.loads((folder / f"{arm}-{seed}" / METRICS).read_text()) for seed in recipe.seeds]
        val, test = (
            tuple(float(run["scores"][recipe.base["data"][split]]["ap"]) for run in runs) for split in ("val", TEST)
        )
        code = str(fields["detector"])
        found[code] = Retrained(code, val, test, float(costs[str(runs[0]["code"])]["latency_ms"]))
    return found


def on_front(members: Sequence[Retrained], pick: Callable[[tuple[float, ...]], float]) -> list[Retrained]:
    """Those on the front of val's AP, as `pick` takes it from the seeds', against latency, the fastest first."""
    on_val = np.array([[-pick(one.val), one.latency_ms] for one in members])
    kept = [one for one, good in zip(members, non_dominated(on_val), strict=True) if good]
    return sorted(kept, key=lambda one: one.latency_ms)


def volume(chosen: Sequence[Retrained], pick: Callable[[tuple[float, ...]], float], limit: float) -> float:
    """Mean over latencies up to `limit` of the AP on test of the one of a front by val, the fastest first, that is the
    best by val up to there."""
    ends = [*(one.latency_ms for one in chosen[1:]), limit]
    parts = (pick(one.test) * (end - one.latency_ms) for one, end in zip(chosen, ends, strict=True))
    return sum(parts) / limit


def mean(values: tuple[float, ...]) -> float:
    return float(np.mean(values))


def seed_of(number: int) -> Callable[[tuple[float, ...]], float]:
    return lambda values: values[number]


def report(
    runs: Path, found: Mapping[str, Retrained], arms: Mapping[str, Sequence[str]], options: argparse.Namespace
) -> None:
    limit = 1.1 * max(one.latency_ms for one in found.values())
    members = {arm: [found[code] for code in codes] for arm, codes in arms.items()}
    volumes = {
        arm: [volume(on_front(own, seed_of(seed)), seed_of(seed), limit) for seed in range(options.seeds)]
        for arm, own in members.items()
    }
    first, second = ARMS
    difference = mean_interval([a - b for a, b in zip(volumes[first], volumes[second], strict=True)])
    spent = spent_by_part(runs)
    seconds, gmacs = ({part: figures[name] for part, figures in spent.items()} for name in ("seconds", "gmacs"))
    record = {
        "command": command(options),
        **provenance(),
        "seeds": list(range(options.seeds)),
        "search_seeds": {name: read_study(runs / name).identity.get("seed") for name in spent},
        "paid": seconds["control"] / seconds["modules"],
        "paid_macs": gmacs["control"] / gmacs["modules"],
        "trained": spent,
        "reference": {"ap": 0.0, "latency_ms": limit},
        "hypervolume": {arm: {"by_seed": values, **interval(mean_interval(values))} for arm, values in volumes.items()},
        "difference": interval(difference),
        "candidates": [
            {
                "code": one.code,
                "arms": [arm for arm, codes in arms.items() if one.code in codes],
                "latency_ms": one.latency_ms,
                "val_ap": list(one.val),
                "test_ap": list(one.test),
            }
            for one in sorted(found.values(), key=lambda one: one.latency_ms)
        ],
    }
    write_json(options.out / "two-stage.json", record)
    text = tables(record, members)
    write_text(options.out / "tables.md", text)
    print(text)
    plot(members, limit, options.out / "fronts.svg")


def spent_by_part(runs: Path) -> dict[str, dict[str, float]]:
    """What each part trained: candidates, seconds, and GMACs of a forward pass times epochs; of the control what it
    trained beyond the first stage, with which it begins."""
    spent = {}
    for name in ("structure", "modules", "control"):
        trials = trials_of(runs, name)
        spent[name] = {
            "candidates": sum(trial.metrics is not None for trial in trials),
            "seconds": round(training_seconds(trials), 1),
            "gmacs": round(training_macs(trials) / 1e9, 2),
        }
    for figure, value in spent["structure"].items():
        spent["control"][figure] = round(spent["control"][figure] - value, 2)
    return spent


def reports(runs: Path, out: Path) -> None:
    """The reports of both stages as Markdown and pictures: how far each structure was lifted, the merged front, what
    goes with what."""
    for name, how in (("structure", {"modules": runs / "modules"}), ("modules", {"first": runs / "structure"})):
        with tempfile.TemporaryDirectory() as scratch:
            for path in write_report(runs / name, Path(scratch), pictures="svg", **how):
                if path.suffix != ".html":
                    (out / name).mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, out / name / path.name)


def command(options: argparse.Namespace) -> str:
    """What makes these figures again, wherever it is run."""
    recipe = options.recipe.name if options.recipe.is_absolute() else str(options.recipe)
    given = ["--recipe", recipe, *(["--set", *options.set] if options.set else []), "--test", options.test]
    given += [part for name in ("count", "epochs", "seeds") for part in (f"--{name}", str(getattr(options, name)))]
    return shlex.join(["python", "benchmarks/two_stage.py", *given])


def interval(found: Interval | None) -> dict[str, float | None]:
    assert found is not None
    return {"mean": found.mean, "half": found.half}


def tables(record: Mapping[str, Any], members: Mapping[str, Sequence[Retrained]]) -> str:
    trained = record["trained"]
    lines = [
        "| part | candidates trained | seconds of training | GMACs x epochs |",
        "|---|--:|--:|--:|",
        *(
            f"| {name} | {part['candidates']:.0f} | {part['seconds']:.0f} | {part['gmacs']:.1f} |"
            for name, part in trained.items()
        ),
        "",
        f"The control was paid {record['paid']:.3f} times the second stage's seconds, and trained "
        f"{record['paid_macs']:.3f} times its multiply-accumulates (of a forward pass, times epochs; all trainings see "
        "as many images an epoch), whatever the machine's pace was meanwhile.",
        "",
        "Hypervolume on test of what val chose, below AP 0 and "
        f"{record['reference']['latency_ms']:.1f} ms, as a share of that latency; "
        "95 % intervals over the seeds of the final trainings.",
        "",
        SCOPE,
        "",
        "| arm | hypervolume | on the front by val |",
        "|---|--:|--:|",
    ]
    for arm, own in members.items():
        found = record["hypervolume"][arm]
        lines.append(f"| {arm} | {shown(found)} | {len(on_front(own, mean))} of {len(own)} |")
    lines += [f"| difference | {shown(record['difference'])} | |", ""]
    lines += ["| candidate | arm | ms | AP on val | AP on test |", "|---|---|--:|--:|--:|"]
    for row in record["candidates"]:
        val, test = (shown(interval(mean_interval(row[split]))) for split in ("val_ap", "test_ap"))
        lines.append(f"| `{row['code']}` | {', '.join(row['arms'])} | {row['latency_ms']:.2f} | {val} | {test} |")
    return "\n".join(lines) + "\n"


def shown(found: Mapping[str, float | None]) -> str:
    half = found["half"]
    return f"{found['mean']:.3f}" + ("" if half is None else f" ± {half:.3f}")


def plot(members: Mapping[str, Sequence[Retrained]], limit: float, path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        say("no picture: matplotlib is not installed")
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "detsearch"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for (arm, own), marker in zip(members.items(), "os", strict=True):
        best = on_front(own, mean)
        heights = [mean(one.test) for one in best]
        (line,) = axes.step([*(o.latency_ms for o in best), limit], [*heights, heights[-1]], where="post", label=arm)
        for one in own:
            axes.errorbar(
                one.latency_ms,
                mean(one.test),
                yerr=[[mean(one.test) - min(one.test)], [max(one.test) - mean(one.test)]],
                marker=marker,
                color=line.get_color(),
                capsize=2,
                linewidth=0.8,
            )
    axes.set(xlabel="latency, ms", ylabel="AP on test, mean and range over the seeds")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/two-stage.yaml"), help="of `search all`")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="of the recipe")
    parser.add_argument("--runs", type=Path, default=Path("runs/two-stage"), help="where all parts are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/two-stage"), help="where the results go")
    parser.add_argument("--count", type=int, default=5, help="most candidates of an arm that are trained again")
    parser.add_argument("--epochs", type=int, default=12, help="of the final trainings")
    parser.add_argument("--seeds", type=int, default=5, help="of the final trainings")
    parser.add_argument("--test", default="test", help="split that is reported on")
    parser.add_argument("--until", choices=PARTS, default=PARTS[-1], help="last part to do")
    options = parser.parse_args(arguments)
    recipe = override(StagesRecipe, read_yaml(options.recipe, RecipeError), options.set, None, str(options.recipe))
    one, wanted = first_stage(recipe), PARTS[: PARTS.index(options.until) + 1]
    searched(one, options.runs / "structure")
    if "modules" in wanted:
        searched(second_stage(recipe, options.runs / "structure"), options.runs / "modules")
    if "control" in wanted:
        control(one, options.runs)
    if "final" not in wanted:
        return
    arms = chosen(options.runs, options.count)
    final = final_recipe(one, list(dict.fromkeys(code for codes in arms.values() for code in codes)), options)
    done = compare(final, options.runs / "final", tell=say)
    if done.failed:
        sys.exit(f"failed, repeat the command: {', '.join(done.failed)}")
    if "report" in wanted:
        report(options.runs, final_figures(options.runs / "final", final), arms, options)
        reports(options.runs, options.out)


if __name__ == "__main__":
    try:
        main()
    except TrialInterrupted:
        say("stopped; the same command goes on")
        sys.exit(130)
