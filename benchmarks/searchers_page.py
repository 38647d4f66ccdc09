"""What `searchers.py` writes of its replays: tables, verdicts and the plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from replays import BY_NAME, DEFAULT, EXHAUSTIVE, PAPER, UNPRUNED, Result, World

SHARES = (0.9, 0.95, 0.99)
GOAL = 0.95  # of the hypervolume, which the default should reach in a third of the paper's epochs
BUDGETS = (5, 10, 15, 20, 25, 30, 40, 60)  # full trainings
LEAST_BUDGET = 20  # from which on the default should beat the baselines
PLOTTED = ("surrogate", "surrogate, pauses")
DRAWS = 2000  # of a bootstrap


@dataclass
class Compared:
    """What was replayed: `names` of searchers, `found` by the keys of their tasks."""

    world: World
    names: list[str]
    cost_seconds: float
    found: dict[str, Result] = field(default_factory=dict)

    @property
    def full(self) -> int:
        """Epochs of a full training."""
        return self.world.table.full.epochs

    @property
    def epochs(self) -> int:
        return self.world.trainings * self.full

    @property
    def budgets(self) -> list[int]:
        """Trainings that the default may be told that it has."""
        whole = self.world.trainings
        return sorted({max(1, whole // 2), max(1, 3 * whole // 4), whole, 3 * whole // 2})

    @property
    def most(self) -> int:
        return max(self.budgets)

    @property
    def trials(self) -> list[int]:
        return [max(1, self.world.trainings // 2), self.world.trainings]

    @property
    def baselines(self) -> list[str]:
        return [name for name in self.names if BY_NAME[name].baseline]

    def at(self, budget: int) -> str:
        """The default's key with a budget."""
        return DEFAULT if budget == self.world.trainings else f"{DEFAULT}, {budget} trainings"

    def by_trials(self, name: str, trials: int) -> str:
        return f"{name}, {trials} trials"

    def limit(self, name: str) -> int:
        """Epochs that a searcher had."""
        return self.full * (self.most if BY_NAME[name].baseline else self.world.trainings)


def sections(compared: Compared, picture: str) -> list[str]:
    """The page below its head."""
    return [
        *results_section(compared),
        "",
        picture,
        "",
        *verdicts(compared),
        *budgets_section(compared),
        *trials_section(compared),
        "## What pruning costs",
        "",
        *lost_by_pruning(compared),
        "",
        *parts_section(compared),
    ]


def median_band(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median over the first axis, and its 95 % bootstrap confidence; values may be infinite."""
    values = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    medians = np.sort(np.median(values[drawn], axis=1), axis=0)
    return np.median(values, axis=0), medians[int(0.025 * DRAWS)], medians[int(0.975 * DRAWS) - 1]


def ratio_band(own: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """The ratio of two medians of independent searches, and its 95 % bootstrap confidence. Where only the other one
    never gets there it is 0, where only the own one does not it is infinite, where neither does it is no number."""
    rng = np.random.default_rng(0)
    medians = [np.median(v[rng.integers(len(v), size=(DRAWS, len(v)))], axis=1) for v in (own, other)]
    with np.errstate(invalid="ignore"):
        ratios = np.sort(medians[0] / medians[1])  # what is no number comes last
        middle = float(np.median(own) / np.median(other))
    return middle, float(ratios[int(0.025 * DRAWS)]), float(ratios[int(0.975 * DRAWS) - 1])


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _list(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def results_section(compared: Compared) -> list[str]:
    world, full = compared.world, compared.full
    budgets = [budget for budget in BUDGETS if budget <= world.trainings]
    edge = zip(world.objectives, world.reference, strict=True)
    columns = ["searcher", "searches", *map(str, budgets), *(f"to {percent(s)}" for s in SHARES),
               f"minutes to {percent(GOAL)}", "s a search"]  # fmt: skip
    seeds = len(world.table.seeds)
    lines = [
        f"{len(world.table.rows)} detectors, {seeds} {'seed' if seeds == 1 else 'seeds'}, scored after "
        f"{_list(world.table.epochs)} epochs. Share of the true front's hypervolume in percent, median over so many "
        f"searches, after as many epochs as so many full trainings take ({full} each); epochs until a share is reached "
        "for the first time; and minutes until then, of training as it was recorded and "
        f"{compared.cost_seconds:g} seconds for each cost (each training at the pace of the machine that recorded it). "
        "Shares, epochs and minutes with their 95 % confidence (bootstrap over the searches). Reference point: "
        f"{_list(f'{o.name} {abs(r):.4g}' for o, r in edge)}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|:--|" + "--:|" * (len(columns) - 1),
    ]
    for name in compared.names:
        result, limit = compared.found[name], compared.limit(name)
        found = result.shares([budget * full for budget in budgets])
        shares = [
            f"{percent(m)} ({percent(lo)} to {percent(hi)})" for m, lo, hi in zip(*median_band(found), strict=True)
        ]
        reached = [until(result.until(share), limit) for share in SHARES]
        minutes = until(result.seconds_until(GOAL, compared.cost_seconds) / 60, None)
        took = f"{np.median([run.took for run in result.runs]):.2f}"
        count = str(len(result.runs))
        lines.append(f"| {name} | " + " | ".join([count, *shares, *reached, minutes, took]) + " |")
    return [*lines, "", "Searchers: " + "; ".join(f"*{name}*: {BY_NAME[name].about}" for name in compared.names) + "."]


def until(found: np.ndarray, limit: int | None) -> str:
    """A median with its confidence, where infinite is more than the limit, if one is known, and a dash otherwise."""
    beyond = "-" if limit is None else f"> {limit}"
    shown = [f"{value:.0f}" if math.isfinite(value) else beyond for value in map(float, median_band(found))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def verdicts(compared: Compared) -> list[str]:
    """Where the default beats the baselines, and where it does not."""
    if DEFAULT not in compared.names:
        return []
    world, full = compared.world, compared.full
    mine, size = compared.found[DEFAULT], len(world.table.rows)
    lines = ["## The default beside the others", "", _default_says(compared), ""]
    grid = list(range(LEAST_BUDGET * full, compared.epochs + 1, full))
    for name in compared.baselines:
        gap = np.median(mine.shares(grid), axis=0) - np.median(compared.found[name].shares(grid), axis=0)
        behind = [g // full for g, d in zip(grid, gap, strict=True) if d < 0]
        told = "nowhere behind" if grid else "none was tried"
        if behind:
            places = f"{behind[0]} to {behind[-1]}" if len(behind) > 1 else str(behind[0])
            told = f"behind at {len(behind)} ({places} trainings), by {percent(-gap.min())} at most"
        lines.append(
            f"- against *{name}*, medians at {len(grid)} budgets from {LEAST_BUDGET} full trainings on: {told}"
        )
    if PAPER in compared.names:
        lines += [f"- {percent(share)} % in {_beside(mine.until(share), compared, share)}" for share in SHARES]
        own, other = (compared.found[n].seconds_until(GOAL, compared.cost_seconds) / 60 for n in (DEFAULT, PAPER))
        if math.isfinite(np.median(own)) and math.isfinite(np.median(other)):
            middle, low, high = ratio_band(own, other)
            lines.append(
                f"- {percent(GOAL)} % in {np.median(own):.0f} minutes, costs included, against "
                f"{np.median(other):.0f} of *{PAPER}*: {middle:.2f} of them ({low:.2f} to {high:.2f})"
            )
    count = min(world.survey, size)
    return [
        *lines,
        "",
        f"The costs that it measures first are those of {count} of these {size} detectors; in a larger space they are "
        "a smaller share. Here they are those by which it is judged; a machine's are noisy.",
        "",
    ]


def _default_says(compared: Compared) -> str:
    """At which epochs the default pauses here, and where a recipe's would."""
    default, full = BY_NAME[DEFAULT], compared.full
    here, recipe = default.recipe(compared.world).rungs or [], list(compared.world.pauses)
    told = f"*{DEFAULT}*: {default.about}. It pauses after {' and '.join(map(str, here))} of {full} epochs"
    if here != recipe:
        told += f"; in a recipe it would after {' and '.join(map(str, recipe))}, where this table has no figures"
    return told + "."


def _beside(own: np.ndarray, compared: Compared, share: float) -> str:
    other = compared.found[PAPER].until(share)
    limits = compared.limit(DEFAULT), compared.limit(PAPER)
    told = [
        f"{np.median(found):.0f}" if math.isfinite(np.median(found)) else f"more than {limit}"
        for found, limit in zip((own, other), limits, strict=True)
    ]
    middle, low, high = ratio_band(own, other)
    shown = ""
    if math.isfinite(middle) and middle > 0:
        shown = f": {middle:.2f} of them"
        if math.isfinite(low) and math.isfinite(high):
            shown += f" ({low:.2f} to {high:.2f})"
    elif middle == 0:
        shown = f": less than {np.median(own) / limits[1]:.2f} of them"
    return f"{told[0]} epochs against {told[1]} of *{PAPER}*{shown}"


def budgets_section(compared: Compared) -> list[str]:
    """The default with budgets that it knows: how many costs are measured first depends on them."""
    if DEFAULT not in compared.names or not compared.baselines:
        return []
    lines = [
        "## Budgets that the search knows",
        "",
        "The default has more costs measured first where it may train more. Its share at the end of a budget, and by "
        "how much that is more than a baseline's after as many epochs (medians and 95 % confidence, in percent):",
        "",
        "| full trainings | default | " + " | ".join(f"over *{name}*" for name in compared.baselines) + " |",
        "|--:|" + "--:|" * (len(compared.baselines) + 1),
    ]
    for budget in compared.budgets:
        epochs = [budget * compared.full]
        own = compared.found[compared.at(budget)].shares(epochs)[:, 0]
        shown = [_with_band(own)]
        for name in compared.baselines:
            other = compared.found[name].shares(epochs)[:, 0]
            shown.append(_signed(difference_band(own, other)))
        lines.append(f"| {budget} | " + " | ".join(shown) + " |")
    return [*lines, ""]


def difference_band(own: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """The difference of two medians of independent searches, and its 95 % bootstrap confidence."""
    rng = np.random.default_rng(0)
    medians = [np.median(v[rng.integers(len(v), size=(DRAWS, len(v)))], axis=1) for v in (own, other)]
    low, high = np.quantile(medians[0] - medians[1], [0.025, 0.975])
    return float(np.median(own) - np.median(other)), float(low), float(high)


def _with_band(values: np.ndarray) -> str:
    middle, low, high = map(float, median_band(values))
    return f"{percent(middle)} ({percent(low)} to {percent(high)})"


def _signed(band: Sequence[float]) -> str:
    middle, low, high = (f"{100 * value:+.1f}" for value in band)
    return f"{middle} ({low} to {high})"


def trials_section(compared: Compared) -> list[str]:
    """What `budget: {trials: N}` means: candidates that are begun, few of which are trained in full by the default."""
    names = [name for name in (DEFAULT, PAPER) if name in compared.names]
    if not names:
        return []
    lines = [
        "## Budgets of trials",
        "",
        "`budget: {trials: N}` counts candidates that are begun. What pauses is then gone on with as long as it "
        "promises something, and the search may end long before it has spent N full trainings.",
        "",
        "| trials | searcher | share at the end | epochs spent |",
        "|--:|:--|--:|--:|",
    ]
    for trials in compared.trials:
        for name in names:
            runs = compared.found[compared.by_trials(name, trials)].runs
            share = np.array([run.curve.share[-1] if len(run.curve.share) else 0.0 for run in runs])
            spent = until(np.array([run.spent for run in runs]), None)
            lines.append(f"| {trials} | {name} | {_with_band(share)} | {spent} |")
    return [*lines, ""]


def lost_by_pruning(compared: Compared) -> list[str]:
    """What pruning costs where everything else is tried: each search beside the one with the same seed, and so the same
    order and the same trainings, that prunes nothing."""
    found, size = compared.found, compared.world.space.size()
    everything = compared.full * size
    whole = np.array([run.curve.share[-1] for run in found[UNPRUNED].runs])
    reason = "" if np.median(whole) > 0.9995 else ": less than all, because a front is chosen by single trainings"
    lines = [
        "Every detector in random order, but those that the partial order prunes:",
        "",
        f"- without pruning: {percent(float(np.median(whole)))} % of the hypervolume in the median, for {everything} "
        f"epochs{reason}",
    ]
    for searcher in EXHAUSTIVE[1:]:
        runs = found[searcher.name].runs
        losses = whole - np.array([run.curve.share[-1] for run in runs])
        spent = float(np.median([run.curve.epochs[-1] for run in runs]))
        lines.append(
            f"- {searcher.name}: it costs {_with_band(losses)} % of the hypervolume in the median, "
            f"{percent(float(losses.max()))} at most, and saves {percent(1 - spent / everything)} % of the epochs"
        )
    return lines


def parts_section(compared: Compared) -> list[str]:
    """What a search loses and gains by one change, beside the search with the same seed: both have the same first
    members, and the same trainings of the same trials."""
    pairs = _changed(compared.names)
    if not pairs:
        return []
    budgets = [budget for budget in compared.budgets if budget <= compared.world.trainings]
    lines = [
        "## What one change brings",
        "",
        "By how much the share with a change is more than without, in percent, after as many epochs as so many full "
        "trainings take: medians of the differences between searches with the same seed, and their 95 % confidence.",
        "",
        "| | beside | searches | " + " | ".join(map(str, budgets)) + " |",
        "|:--|:--|--:|" + "--:|" * len(budgets),
    ]
    for name, whole in pairs:
        mine, other = (compared.found[n].shares([b * compared.full for b in budgets]) for n in (name, whole))
        count = min(len(mine), len(other))
        differences = zip(*median_band(mine[:count] - other[:count]), strict=True)
        lines.append(f"| {name} | {whole} | {count} | " + " | ".join(map(_signed, differences)) + " |")
    return [*lines, ""]


def _changed(names: Sequence[str]) -> list[tuple[str, str]]:
    """Searchers that are another but for what their names say more, with the nearest of these."""
    found = []
    for name in names:
        shorter = [other for other in names if name.startswith(f"{other}, ")]
        if shorter:
            found.append((name, max(shorter, key=len)))
    return found


def plot(compared: Compared, path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "detsearch"
    from matplotlib import pyplot

    shown = [n for n in compared.names if n in compared.baselines or n in (DEFAULT, *PLOTTED)]
    figure, axes = pyplot.subplots(figsize=(8, 5))
    grid = np.arange(compared.full, compared.epochs + 1, compared.full)
    for name in shown:
        middle, low, high = median_band(compared.found[name].shares(grid.tolist()))
        marked = {"color": "black", "linewidth": 2, "zorder": 3} if name == DEFAULT else {}
        (line,) = axes.step(grid, middle, where="post", label=name, **marked)
        axes.fill_between(grid, low, high, step="post", alpha=0.2, color=line.get_color(), linewidth=0)
    for share in SHARES:
        axes.axhline(share, color="grey", linewidth=0.5, linestyle=":")
    axes.set(xlabel="epochs of training", ylabel="share of the true front's hypervolume", title=title)
    axes.set_ylim(0.5, 1.01)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
