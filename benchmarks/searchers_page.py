"""What `searchers.py` writes of its replays: tables, verdicts and the plot."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from replays import DEFAULT, EXHAUSTIVE, PAPER, SEARCHERS, UNPRUNED, Result, World, default_survey

from detsearch.arch.partial_order import leq
from detsearch.search.correlation import rank_correlation
from detsearch.search.table import Table
from detsearch.search.tablefacts import fidelity_facts, order_facts, true_front

SHARES = (0.9, 0.95, 0.99)
BUDGETS = (5, 10, 15, 20, 25, 30, 40, 60)  # full trainings
MARGIN = 0.01  # AP by which a violation of the partial order is clear
PLOTTED = ("surrogate, pruning", "thawing")


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
