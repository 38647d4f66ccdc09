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
import math
import multiprocessing
import os
import platform
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance

from detsearch import __version__
from detsearch.arch.partial_order import leq
from detsearch.arch.presets import resolve
from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.section import read_space
from detsearch.errors import StudyError
from detsearch.runs.settings import PAUSES, TRIALS, SearchSettings
from detsearch.search.anytime import Curve, anytime
from detsearch.search.correlation import rank_correlation
from detsearch.search.evolution import Evolution
from detsearch.search.given import GivenFirst
from detsearch.search.halving import Halving
from detsearch.search.objective import Objective
from detsearch.search.optuna_samplers import OptunaSampler
from detsearch.search.pareto import hypervolume
from detsearch.search.random_search import RandomSearch
from detsearch.search.replay import replay
from detsearch.search.study import Search
from detsearch.search.surrogate import Surrogate
from detsearch.search.survey import Survey
from detsearch.search.table import Table
from detsearch.search.tablefacts import fidelity_facts, order_facts, true_front
from detsearch.search.tablefile import read_table
from detsearch.search.thawing import Thawing
from detsearch.search.trial import Strategy

INITIAL = 8
SHARES = (0.9, 0.95, 0.99)
BUDGETS = (5, 10, 15, 20, 25, 30, 40, 60)  # full trainings
MARGIN = 0.01  # AP by which a violation of the partial order is clear


@dataclass(frozen=True)
class World:
    """A table, what searchers are judged by, and how many full trainings they may spend."""

    table: Table
    space: Space
    objectives: tuple[Objective, ...]
    start: tuple[str, ...]
    trainings: int

    @property
    def points(self) -> np.ndarray:
        return self.table.values(self.objectives)

    @property
    def reference(self) -> list[float]:
        return [float(worst) for worst in np.nanmax(self.points, axis=0)]


@dataclass(frozen=True)
class Searcher:
    """What is compared: `about` says what it is, `baseline` whether the default has to beat it."""

    name: str
    about: str
    strategy: Callable[[World], Strategy]
    baseline: bool = False
    rungs: tuple[float, ...] = ()  # as shares of the full training
    eta: int = 3
    prune: bool = False
    slack: float = 0.0
    workers: int = 1


def evolution(world: World) -> Strategy:
    return Evolution(space=world.space, objectives=world.objectives, initial=INITIAL)


def surrogate(world: World) -> Strategy:
    return Surrogate(space=world.space, objectives=world.objectives, initial=INITIAL)


def rungs_of(shares: Sequence[float], table: Table) -> tuple[int, ...]:
    """The recorded epochs that are nearest to shares of the full training, then that."""
    full = table.full.epochs
    wanted = (min(table.epochs[:-1], key=lambda e: abs(e - share * full)) for share in shares)
    return (*sorted(set(wanted)), full)


def thawing(*shares: float, initial: int = INITIAL) -> Callable[[World], Strategy]:
    def make(world: World) -> Strategy:
        model = Surrogate(space=world.space, objectives=world.objectives, initial=initial)
        return Thawing(surrogate=model, rungs=rungs_of(shares, world.table))

    return make


def surveyed(strategy: Callable[[World], Strategy], share: float = 1.0) -> Callable[[World], Strategy]:
    """After as many costs as a recipe has by default, or a share of them."""

    def make(world: World) -> Strategy:
        return Survey(space=world.space, strategy=strategy(world), count=round(share * default_survey(world)))

    return make


def default_survey(world: World) -> int:
    return SearchSettings().surveyed(world.trainings, [objective.name for objective in world.objectives])


def unaware(world: World) -> Strategy:
    return Surrogate(space=world.space, objectives=world.objectives, initial=INITIAL, aware=False)


def given(world: World) -> Strategy:
    return GivenFirst(detectors=tuple(map(resolve, world.start)), strategy=surrogate(world))


def drawn(world: World) -> Strategy:
    return RandomSearch(space=world.space)


def nsga2(world: World) -> Strategy:
    return OptunaSampler(space=world.space, objectives=world.objectives, sampler="nsga2", initial=INITIAL)


def tpe(world: World) -> Strategy:
    return OptunaSampler(space=world.space, objectives=world.objectives, sampler="tpe", initial=INITIAL)


EARLY = (1 / 3,)
PAPER, DEFAULT = "evolution", "costs first, thawing"
PLOTTED = ("surrogate, pruning", "thawing")
SEARCHERS = [
    Searcher("random", "random search", drawn, baseline=True),
    Searcher("nsga2", "NSGA-II (optuna)", nsga2, baseline=True),
    Searcher("tpe", "TPE for several objectives (optuna)", tpe, baseline=True),
    Searcher(PAPER, "the paper's: evolution with pruning", evolution, baseline=True, prune=True),
    Searcher("evolution, no pruning", "what pruning brings to evolution", evolution),
    Searcher("evolution, halving", "what early comparison brings to evolution", evolution, rungs=EARLY, prune=True),
    Searcher("surrogate", "a model proposes, all are trained in full", surrogate),
    Searcher("surrogate, pruning", "and the partial order prunes", surrogate, prune=True),
    Searcher("surrogate, pruning 0.01", "the same with slack 0.01 AP", surrogate, prune=True, slack=0.01),
    Searcher("surrogate, 4 at once", "four workers", surrogate, workers=4),
    Searcher("surrogate, 4 at once, unaware", "four workers, blind to what runs", unaware, workers=4),
    Searcher("given, surrogate", "known good detectors first", given),
    Searcher("surrogate, pruning, halving", "a third go on from a third of the training", surrogate, rungs=EARLY,
             prune=True),
    Searcher("surrogate, pruning, halving, eta 2", "half go on", surrogate, rungs=EARLY, eta=2, prune=True),
    Searcher("costs first, surrogate", "a survey of costs, then all are trained in full", surveyed(surrogate),
             prune=True, slack=0.01),
    Searcher("thawing", "trainings pause at a third and two thirds, and the model decides which go on",
             thawing(*PAUSES), prune=True, slack=0.01),
    Searcher(DEFAULT, "the same after a survey of costs", surveyed(thawing(*PAUSES)), prune=True, slack=0.01),
    Searcher("costs first, thawing, no pruning", "what pruning brings to it", surveyed(thawing(*PAUSES))),
    Searcher("half of the costs first, thawing", "a smaller survey", surveyed(thawing(*PAUSES), 0.5),
             prune=True, slack=0.01),
    Searcher("costs first, thawing 1/3", "paused once", surveyed(thawing(1 / 3)), prune=True, slack=0.01),
    Searcher("costs first, thawing 1/6 1/2", "paused early and late", surveyed(thawing(1 / 6, 1 / 2)),
             prune=True, slack=0.01),
    Searcher("costs first, thawing, 4 first", "four first members in place of eight",
             surveyed(thawing(*PAUSES, initial=INITIAL // 2)), prune=True, slack=0.01),
    Searcher("costs first, thawing, 4 at once", "four workers", surveyed(thawing(*PAUSES)), prune=True,
             slack=0.01, workers=4),
]  # fmt: skip


def study(world: World, searcher: Searcher, seed: int, epochs: int | None) -> Curve:
    table = world.table
    rungs = rungs_of(searcher.rungs, table)
    search = Search(
        strategy=searcher.strategy(world),
        cost=table.cost,
        evaluate=table.evaluate,
        fidelity=table.full,
        seed=seed,
        halving=Halving(objectives=world.objectives, rungs=rungs, eta=searcher.eta) if len(rungs) > 1 else None,
        leq=leq if searcher.prune else None,
        slack=searcher.slack,
    )
    done = replay(search, world.objectives, epochs=epochs, workers=searcher.workers, name=table.code)
    truth = dict(zip((row.spec for row in table.rows), world.points, strict=True))
    return anytime(
        done.steps(),
        truth.__getitem__,
        world.objectives,
        fidelity=table.full,
        reference=world.reference,
        whole=hypervolume(world.points, world.reference),
    )


@cache
def world_of(path: str, objectives: tuple[str, ...], start: tuple[str, ...], epochs: int | None = None) -> World:
    table = read_table(Path(path))
    space = table.within(read_space(table.choices))
    trainings = TRIALS if epochs is None else max(1, epochs // table.full.epochs)
    return World(table, space, tuple(map(Objective.parse, objectives)), start, trainings)


def job(task: tuple[tuple[Any, ...], str, int, int | None]) -> tuple[str, Curve, float]:
    where, name, seed, epochs = task
    begin = time.perf_counter()
    searcher = next(s for s in [*SEARCHERS, *EXHAUSTIVE] if s.name == name)
    curve = study(world_of(*where), searcher, seed, epochs)
    return name, curve, time.perf_counter() - begin


UNPRUNED = "all, random order"
EXHAUSTIVE = [
    Searcher(UNPRUNED, "", drawn),
    Searcher("all, random order, pruning", "", drawn, prune=True),
    Searcher("all, random order, pruning 0.01", "", drawn, prune=True, slack=0.01),
]


@dataclass
class Result:
    """All seeds of one searcher."""

    curves: list[Curve] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def shares(self, epochs: Sequence[int]) -> np.ndarray:
        return np.array([curve.at(epochs) for curve in self.curves])

    def until(self, share: float) -> float:
        return float(np.median(self.all_until(share)))

    def all_until(self, share: float) -> np.ndarray:
        return np.array([curve.until(share) for curve in self.curves])


def band(values: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap confidence of the median over the first axis."""
    drawn = rng.integers(len(values), size=(1000, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975], axis=0)
    return low, high


def _list(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def table_section(world: World) -> list[str]:
    """What the table says of itself."""
    table, accuracy, cost = world.table, world.objectives[0], world.objectives[-1]
    lines = [
        f"{len(table.rows)} detectors, {len(table.seeds)} {'seed' if len(table.seeds) == 1 else 'seeds'}, scored after "
        f"{_list(table.epochs)} epochs. Latencies: {_measured(table)}.",
        "",
        f"| epochs | {accuracy.name}: least | quarter | median | three quarters | most | noise of a training "
        "| rank correlation of seeds | with the full training |",
        "|" + "--:|" * 9,
    ]
    for facts in fidelity_facts(table, accuracy.name):
        figures = [*facts.quantiles, facts.noise, facts.between_seeds, facts.to_full]
        lines.append(f"| {facts.epochs} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    costs = np.array([[row.cost.values().get(name, math.nan) for name in ("latency_ms", "macs", "params")]
                      for row in table.rows])  # fmt: skip
    order = order_facts(table, leq, accuracy, cost, MARGIN)
    lines += [
        "",
        f"Rank correlation of latency with MACs {rank_correlation(costs[:, 0], costs[:, 1]):.3f}, with parameters "
        f"{rank_correlation(costs[:, 0], costs[:, 2]):.3f}.",
        "",
        f"The partial order compares {order.pairs} pairs. The larger detector is less accurate in {order.violated} of "
        f"them, by more than {MARGIN} in {order.clearly}; it is cheaper in {order.cheaper}.",
        "",
        "The true front:",
        "",
        f"| {cost.name} | {accuracy.name} | detector |",
        "|--:|--:|:--|",
    ]
    for row, point in true_front(table, world.objectives):
        lines.append(f"| {point[-1]:.2f} | {abs(point[0]):.3f} | `{row.code}` |")
    return lines


def _measured(table: Table) -> str:
    """How a table's latencies came about."""
    source = table.provenance.get("latency_from")
    if not isinstance(source, dict):
        return str(source or "of unknown origin")
    rounds = source.get("rounds")
    how = f", each the lowest steady median of {rounds} rounds" if isinstance(rounds, int) and rounds > 1 else ""
    return f"{source.get('device_name', 'some device')} ({source.get('device', '?')}){how}"


def results_section(world: World, results: dict[str, Result], epochs: int) -> list[str]:
    full = world.table.full.epochs
    budgets = [budget for budget in BUDGETS if budget * full <= epochs]
    edge = zip(world.objectives, world.reference, strict=True)
    lines = [
        f"Share of the true front's hypervolume in percent, median over {len(next(iter(results.values())).curves)} "
        f"seeds, after as many epochs as so many full trainings take ({full} each); and epochs until a share is "
        "reached for the first time, median and its 95 % confidence (bootstrap over the seeds). Reference point: "
        f"{_list(f'{o.name} {abs(r):.4g}' for o, r in edge)}.",
        "",
        "| searcher | " + " | ".join(map(str, budgets)) + " | " + " | ".join(f"to {percent(s)}" for s in SHARES)
        + " | s a search |",
        "|:--|" + "--:|" * (len(budgets) + len(SHARES) + 1),
    ]  # fmt: skip
    for name, result in results.items():
        found = result.shares([budget * full for budget in budgets])
        low, high = band(found, np.random.default_rng(0))
        shares = [
            f"{percent(m)} ({percent(lo)} to {percent(hi)})"
            for m, lo, hi in zip(np.median(found, axis=0), low, high, strict=True)
        ]
        reached = [epochs_until(result.all_until(share), epochs) for share in SHARES]
        lines.append(f"| {name} | " + " | ".join([*shares, *reached]) + f" | {np.median(result.seconds):.2f} |")
    lines += ["", "Searchers: " + "; ".join(f"*{s.name}*: {s.about}" for s in SEARCHERS if s.name in results) + "."]
    return lines


def epochs_until(found: np.ndarray, epochs: int) -> str:
    """Median of the epochs that searches took, with its confidence; those that never got there took more than all."""
    order = np.sort(np.where(np.isfinite(found), found, np.inf))
    drawn = np.random.default_rng(0).integers(len(order), size=(1000, len(order)))
    medians = np.sort(np.median(order[drawn], axis=1))
    middle, low, high = float(np.median(order)), medians[24], medians[974]
    shown = [f"{value:.0f}" if math.isfinite(value) else f"> {epochs}" for value in (middle, low, high)]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def verdicts(world: World, results: dict[str, Result], epochs: int) -> list[str]:
    """Where the default beats the baselines, and where it does not."""
    if DEFAULT not in results:
        return []
    mine, full, size = results[DEFAULT], world.table.full.epochs, len(world.table.rows)
    count = min(default_survey(world), size)
    lines = [
        f"The default is *{DEFAULT}*. The costs that it measures first are those of {count} of these {size} detectors; "
        "in a larger space they are a smaller share. Here they are those by which it is judged; a machine's are noisy.",
        "",
    ]
    grid = list(range(20 * full, epochs + 1, full))
    for searcher in SEARCHERS:
        if searcher.baseline and searcher.name in results:
            gap = np.median(mine.shares(grid), axis=0) - np.median(results[searcher.name].shares(grid), axis=0)
            behind = [g // full for g, d in zip(grid, gap, strict=True) if d < 0]
            lines.append(
                f"- against *{searcher.name}*, medians at {len(grid)} budgets from 20 full trainings on: "
                + (f"behind at {len(behind)} ({behind[0]} to {behind[-1]} trainings), by {percent(-gap.min())} at most"
                   if behind else "nowhere behind")
            )  # fmt: skip
    if PAPER in results:
        for share in SHARES:
            own, other = mine.until(share), results[PAPER].until(share)
            told = [f"{value:.0f}" if math.isfinite(value) else f"more than {epochs}" for value in (own, other)]
            ratio = f": {own / other:.2f} of them" if math.isfinite(own) and math.isfinite(other) else ""
            if math.isfinite(own) and not math.isfinite(other):
                ratio = f": less than {own / epochs:.2f} of them"
            lines.append(f"- {percent(share)} % in {told[0]} epochs against {told[1]} of *{PAPER}*{ratio}")
    return lines


def lost_by_pruning(found: dict[str, Result], full: int, size: int) -> list[str]:
    """What pruning costs where everything else is tried: each search beside the one with the same seed, and so the same
    order and the same trainings, that prunes nothing."""
    whole = np.array([curve.share[-1] for curve in found[UNPRUNED].curves])
    lines = [
        f"- without pruning: {percent(float(np.median(whole)))} % of the hypervolume in the median, for {full * size} "
        "epochs: less than all, because a front is chosen by single trainings"
    ]
    for searcher in EXHAUSTIVE[1:]:
        ends = np.array([(curve.share[-1], curve.epochs[-1]) for curve in found[searcher.name].curves])
        losses = whole - ends[:, 0]
        low, high = band(losses[:, None], np.random.default_rng(0))
        lines.append(
            f"- {searcher.name}: it costs {percent(float(np.median(losses)))} % of the hypervolume in the median "
            f"({percent(float(low[0]))} to {percent(float(high[0]))}), {percent(float(losses.max()))} at most, and "
            f"saves {percent(1 - float(np.median(ends[:, 1])) / (full * size))} % of the epochs"
        )
    return lines


def plot(results: dict[str, Result], epochs: int, full: int, path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "detsearch"
    from matplotlib import pyplot

    shown = [s.name for s in SEARCHERS if s.name in results and (s.baseline or s.name in (DEFAULT, *PLOTTED))]
    figure, axes = pyplot.subplots(figsize=(8, 5))
    grid = np.arange(full, epochs + 1, full)
    rng = np.random.default_rng(0)
    for name in shown:
        values = results[name].shares(grid.tolist())
        low, high = band(values, rng)
        (line,) = axes.step(grid, np.median(values, axis=0), where="post", label=name)
        axes.fill_between(grid, low, high, step="post", alpha=0.2, color=line.get_color(), linewidth=0)
    for share in SHARES:
        axes.axhline(share, color="grey", linewidth=0.5, linestyle=":")
    axes.set(xlabel="epochs of training", ylabel="share of the true front's hypervolume", title=title)
    axes.set_ylim(0.5, 1.01)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


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
