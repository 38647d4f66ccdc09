"""How many epochs of training do search strategies need: replayed on recorded tables of real trainings.

    python benchmarks/searchers.py benchmarks/tables/bccd.json.gz --out docs/results/searchers

Half an hour or so per table on two cores. For every searcher and seed a whole study is replayed with the loop that real
studies have, and its answer at every moment (the front that it would report) is worth the hypervolume of the *true*
values (means over the recorded seeds) of those detectors, as a share of the true front's. Only what was trained in full
counts. The reference point is the worst of each objective in the table. A training that is seen is one of those whose
mean is the truth: with two seeds half of what a search sees is in what it is judged by, with one all of it, and then
the noise of a training does it no harm. Costs that are measured first take no epochs; in seconds they are counted, each
as --cost-seconds. Searches that inherit weights cannot be replayed: `benchmarks/inheritance.py` trains.

Written for each table: NAME.md (the searchers, and what each part brings), NAME.json (all curves) and NAME.svg (medians
with their 95 % confidence bands). `describe_table.py` says what the table itself holds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance
from replays import BY_NAME, DEFAULT, EXHAUSTIVE, PAPER, SEARCHERS, Result, Run, Task, job, world_of
from searchers_page import Compared, plot, sections

from detsearch import __version__
from detsearch.errors import UserError
from detsearch.runs.settings import TRIALS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", help="files of `detsearch study table`")
    parser.add_argument("--seeds", type=int, default=30, help="searches of each searcher, but")
    parser.add_argument("--judged", type=int, default=100, help="of the default and of what it has to beat")
    parser.add_argument("--trainings", type=int, default=TRIALS, help="spent by each, in epochs of so many full ones")
    parser.add_argument("--objectives", default="ap:max,latency_ms:min", help="accuracy first, cost last")
    parser.add_argument(
        "--cost-seconds", type=float, default=2.5, help="seconds that measuring a detector's cost takes"
    )
    parser.add_argument("--only", nargs="+", help="searchers by name; default: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("docs/results/searchers"))
    options = parser.parse_args()
    known = [s.name for s in SEARCHERS]
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"no such searcher: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    names = [n for n in known if (n in options.only if options.only else True)]
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.tables:
        try:
            compare(path, names, options)
        except UserError as error:
            parser.error(str(error))


def compare(path: Path, names: list[str], options: argparse.Namespace) -> None:
    objectives = tuple(options.objectives.split(","))
    world = world_of(str(path), objectives, options.trainings)
    world.recorded(world.pauses)  # what is wrong with the table is said before anything is replayed
    compared = Compared(world=world, names=names, cost_seconds=options.cost_seconds)
    with multiprocessing.Pool(options.processes) as pool:
        for key, run in pool.imap(job, tasks(str(path), objectives, compared, options)):
            compared.found.setdefault(key, Result()).runs.append(run)

    name = path.name.split(".")[0]
    given = ["--only", *options.only] if options.only else []
    counts = ["--seeds", str(options.seeds), "--judged", str(options.judged), "--trainings", str(options.trainings),
              "--objectives", options.objectives, "--cost-seconds", f"{options.cost_seconds:g}"]  # fmt: skip
    command = shlex.join(["python", "benchmarks/searchers.py", str(path), *counts, *given])
    made = provenance()
    text = [f"# Searchers on {name}", "", f"    {command}", "", f"{made['date'][:10]}, {made['device']}.", "",
            *sections(compared, f"![hypervolume against epochs]({name}.svg)")]  # fmt: skip
    (options.out / f"{name}.md").write_text("\n".join(text), encoding="utf-8")
    plot(compared, options.out / f"{name}.svg", name)
    document = {
        "command": command,
        **made,
        "versions": {"detsearch": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "reference": world.reference,
        "curves": {key: [recorded(run) for run in result.runs] for key, result in compared.found.items()},
    }
    (options.out / f"{name}.json").write_text(json.dumps(document) + "\n")
    print("\n".join(text))


def recorded(run: Run) -> dict[str, Any]:
    """A search where its share changed, and at its end."""
    share = np.round(run.curve.share, 5)
    kept = np.flatnonzero(np.append(np.diff(share, prepend=0.0)[:-1] != 0, True)) if len(share) else []
    return {
        "epochs": run.curve.epochs[kept].tolist(),
        "share": share[kept].tolist(),
        "seconds": np.round(run.seconds[kept]).astype(int).tolist(),
        "costs": run.costs[kept].tolist(),
        "spent": run.spent,
    }


def tasks(path: str, objectives: tuple[str, ...], compared: Compared, options: argparse.Namespace) -> list[Task]:
    """All searches, seed by seed: every searcher; the default again with each budget that it may know of; some with a
    budget of trials; and those that try everything. Baselines are blind to their budget, and run once, to the largest
    of the default's."""
    found = []
    for seed in range(max(options.seeds, options.judged)):

        def task(key: str, name: str, trainings: int, trials: int | None = None, whole: bool = False) -> None:
            found.append(Task(key, name, seed, path, objectives, trainings, trials, whole))  # noqa: B023

        for name in compared.names:
            judged = name == DEFAULT or BY_NAME[name].baseline
            if seed < (options.judged if judged else options.seeds):
                task(name, name, compared.most if BY_NAME[name].baseline else compared.world.trainings)
        if seed >= options.seeds:
            continue
        if DEFAULT in compared.names:
            for budget in set(compared.budgets) - {compared.world.trainings}:
                task(compared.at(budget), DEFAULT, budget)
        for name in (DEFAULT, PAPER):
            for trials in compared.trials if name in compared.names else ():
                task(compared.by_trials(name, trials), name, trials, trials)
        for searcher in EXHAUSTIVE:
            task(searcher.name, searcher.name, compared.world.trainings, whole=True)
    return found


if __name__ == "__main__":
    main()
