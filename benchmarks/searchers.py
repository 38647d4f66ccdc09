"""How many epochs of training do search strategies need: replayed on recorded tables of real trainings.

    python benchmarks/searchers.py benchmarks/tables/bccd.json.gz --out docs/results/searchers

Minutes per table on two cores. For every searcher and seed a whole study is replayed with the loop that real studies
have, and its answer at every moment (the front that it would report) is worth the hypervolume of the *true* values
(means over the recorded seeds) of those detectors, as a share of the true front's. Only what was trained in full
counts. The reference point is the worst of each objective in the table. A training that is seen is one of those whose
mean is the truth: with two seeds half of what a search sees is in what it is judged by, with one all of it, and then
the noise of a training does it no harm. Costs that are measured first take no epochs; what they take is seconds, which
nothing here counts. Searches that inherit weights cannot be replayed and are refused:
`benchmarks/inheritance.py` trains.

Written for each table: NAME.md (what the table says of itself, the searchers, what each part brings), NAME.json (all
curves) and NAME.svg (medians with their 95 % confidence bands).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shlex
from pathlib import Path

import numpy as np
from provenance import provenance
from replays import EXHAUSTIVE, SEARCHERS, Result, job, world_of
from searchers_page import lost_by_pruning, plot, results_section, table_section, verdicts

from detsearch import __version__
from detsearch.errors import StudyError
from detsearch.runs.settings import TRIALS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", help="files of `detsearch study table`")
    parser.add_argument("--seeds", type=int, default=30, help="searches of each searcher")
    parser.add_argument("--epochs", type=int, help=f"spent by each; default: those of {TRIALS} full trainings")
    parser.add_argument("--objectives", default="ap:max,latency_ms:min", help="accuracy first, cost last")
    parser.add_argument("--only", nargs="+", help="searchers by name; default: all")
    parser.add_argument("--start", nargs="*", default=[], help="known good detectors for *given, surrogate*")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("docs/results/searchers"))
    options = parser.parse_args()
    known = [s.name for s in SEARCHERS]
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"no such searcher: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    names = [n for n in known if (n in options.only if options.only else True)]
    if not options.start:
        names = [n for n in names if n != "given, surrogate"]
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.tables:
        try:
            compare(path, names, options)
        except StudyError as error:
            parser.error(str(error))


def compare(path: Path, names: list[str], options: argparse.Namespace) -> None:
    where = (str(path), tuple(options.objectives.split(",")), tuple(options.start), options.epochs)
    world = world_of(*where)
    if len(world.table.epochs) == 1:
        raise StudyError(str(path), "figures after several epochs", "those of full trainings alone")
    full = world.table.full.epochs
    epochs = options.epochs or TRIALS * full
    tasks = [(where, name, seed, epochs) for seed in range(options.seeds) for name in names]
    tasks += [(where, searcher.name, seed, None) for seed in range(options.seeds) for searcher in EXHAUSTIVE]
    found: dict[str, Result] = {name: Result() for name in [*names, *(s.name for s in EXHAUSTIVE)]}
    with multiprocessing.Pool(options.processes) as pool:
        for name, curve, seconds in pool.imap(job, tasks):
            found[name].curves.append(curve)
            found[name].seconds.append(seconds)
    results = {name: found[name] for name in names}
    name = path.name.split(".")[0]
    lost = lost_by_pruning(found, full, world.space.size())
    named = {"--only": options.only, "--start": options.start}
    given = [part for name, values in named.items() if values for part in (name, *values)]
    counts = ["--seeds", str(options.seeds), "--epochs", str(epochs), "--objectives", options.objectives]
    command = shlex.join(["python", "benchmarks/searchers.py", str(path), *counts, *given])
    made = provenance()
    when = f"{made['date'][:10]}, {made['device']}."
    text = [f"# Searchers on {name}", "", f"    {command}", "", when, "", *table_section(world), "", "## Searchers", "",
            *results_section(world, results, epochs), "", f"![hypervolume against epochs]({name}.svg)", "",
            *verdicts(world, results, epochs), "", "## What pruning costs", "",
            "Every detector in random order, but those that the partial order prunes:", "", *lost, ""]  # fmt: skip
    (options.out / f"{name}.md").write_text("\n".join(text), encoding="utf-8")
    plot(results, epochs, full, options.out / f"{name}.svg", name)
    document = {
        "command": command,
        **made,
        "versions": {"detsearch": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "reference": world.reference,
        "curves": {
            n: [{"epochs": c.epochs.tolist(), "share": np.round(c.share, 5).tolist()} for c in r.curves]
            for n, r in found.items()
        },
    }
    (options.out / f"{name}.json").write_text(json.dumps(document) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
