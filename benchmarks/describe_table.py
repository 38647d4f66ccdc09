"""What a recorded table holds, as a page beside it.

    python benchmarks/describe_table.py benchmarks/tables/bccd.json.gz

Written: NAME.md beside the table: where its figures come from, how they are distributed, the noise of a training and
what early figures say of late ones, how costs go together, how often the partial order is wrong, and the true front.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detsearch.arch.partial_order import leq
from detsearch.errors import UserError
from detsearch.files import write_text
from detsearch.search.correlation import rank_correlation
from detsearch.search.objective import Objective
from detsearch.search.table import Table
from detsearch.search.tablefacts import by_seed, fidelity_facts, order_facts, read_objectives, true_front
from detsearch.search.tablefile import read_table
from detsearch.types import Fidelity

MARGIN = 0.01  # AP by which a violation of the partial order is clear
COSTS = {"latency_ms": "latency (ms)", "macs": "MACs (million)", "params": "parameters (thousand)"}
UNITS = {"latency_ms": 1.0, "macs": 1e6, "params": 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", help="files of `detsearch study table`")
    parser.add_argument("--objectives", default="ap:max,latency_ms:min", help="accuracy first, cost last")
    options = parser.parse_args()
    for path in options.tables:
        try:
            table = read_table(path)
            objectives = read_objectives(table, options.objectives.split(","))
        except UserError as error:
            parser.error(str(error))
        name = path.name.split(".")[0]
        text = "\n".join([f"# The table {name}", "", f"    python benchmarks/describe_table.py {path}", "",
                          *sections(table, objectives), ""])  # fmt: skip
        write_text(path.with_name(f"{name}.md"), text)
        print(text)


def sections(table: Table, objectives: Sequence[Objective]) -> list[str]:
    accuracy, cost = objectives[0], objectives[-1]
    return [
        *made(table),
        "",
        f"## {accuracy.name} after so many epochs",
        "",
        *fidelities(table, accuracy.name),
        "",
        "## Costs",
        "",
        *costs(table, accuracy.name),
        "",
        "## The partial order",
        "",
        *order(table, accuracy, cost),
        "",
        "## The true front",
        "",
        *front(table, objectives),
    ]


def made(table: Table) -> list[str]:
    """Where the figures come from."""
    known = table.provenance
    seeds = len(table.seeds)
    lines = [
        f"{len(table.rows)} detectors, {seeds} {'seed' if seeds == 1 else 'seeds'}, scored after "
        f"{_list(table.epochs)} epochs.",
        "",
        "| seed | detectors | failed | hours of training | on | with |",
        "|--:|--:|--:|--:|:--|:--|",
    ]
    seconds = by_seed(table, "train_seconds", table.full)
    for column, seed in enumerate(table.seeds):
        trained = [row.trainings[seed] for row in table.rows if seed in row.trainings]
        failed = sum(training.failed is not None for training in trained)
        on = _of(known, "trained_on").get(str(seed), "unknown")
        versions = ", ".join(f"{k} {v}" for k, v in _of(_of(known, "versions"), str(seed)).items())
        hours = np.nansum(seconds[:, column]) / 3600
        lines.append(f"| {seed} | {len(trained)} | {failed} | {hours:.1f} | {on} | {versions} |")
    lines += ["", f"Latencies: {latencies(table)}.", ""]
    for name, told in _of(known, "images").items():
        lines.append(
            f"- {name}: {told.get('images')} images, {told.get('boxes')} boxes of {_list(told.get('classes', ()))}"
        )
    lines += ["", "The space, and how all were trained:", "", "```json", json.dumps(table.choices, indent=1), "```", ""]
    training = {name: known[name] for name in ("training", "augmentation", "weights") if name in known}
    return [*lines, "```json", json.dumps(training), "```"]


def latencies(table: Table) -> str:
    """How they came about."""
    source = table.provenance.get("latency_from")
    steady = [row.cost.latency.steady for row in table.rows if row.cost.latency is not None]
    told = f"{sum(steady)} of {len(table.rows)} steady"
    if not isinstance(source, dict):
        return f"{source or 'of unknown origin'}; {told}"
    rounds = source.get("rounds")
    how = f", each the lowest steady median of {rounds} rounds" if isinstance(rounds, int) and rounds > 1 else ""
    return f"{source.get('device_name', 'some device')} ({source.get('device', '?')}){how}; {told}"


def fidelities(table: Table, figure: str) -> list[str]:
    """Its distribution and noise, and what one fidelity says of another."""
    columns = ["epochs", "least", "quarter", "median", "three quarters", "most", "noise of a training",
               "rank correlation of seeds", "with the full training"]  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "|" + "--:|" * len(columns)]
    for facts in fidelity_facts(table, figure):
        figures = [*facts.quantiles, facts.noise, facts.between_seeds, facts.to_full]
        lines.append(f"| {facts.epochs} | " + " | ".join(map(_figure, figures)) + " |")
    means = {e: np.nanmean(by_seed(table, figure, Fidelity(e)), axis=1) for e in table.epochs}
    lines += ["", "Quantiles are those of the detectors' means over seeds. Noise is the standard deviation of one "
              "training; the last column compares a seed with the full training of the others, where there are "
              "others.", "",
              "Rank correlations of these means after so many epochs:", "",
              "| epochs | " + " | ".join(map(str, table.epochs)) + " |",
              "|--:|" + "--:|" * len(table.epochs)]  # fmt: skip
    for early in table.epochs:
        found = [_figure(rank_correlation(means[early], means[late])) for late in table.epochs]
        lines.append(f"| {early} | " + " | ".join(found) + " |")
    return lines


def costs(table: Table, figure: str) -> list[str]:
    """Their distribution, and how they go together and with accuracy."""
    values = {name: np.array([row.cost.values().get(name, np.nan) for row in table.rows]) for name in COSTS}
    others = {**values, figure: np.nanmean(by_seed(table, figure, table.full), axis=1)}
    lines = [
        "| | least | quarter | median | three quarters | most | rank correlation with "
        + " | with ".join(COSTS.get(name, name) for name in others)
        + " |",
        "|:--|" + "--:|" * (5 + len(others)),
    ]
    for name, label in COSTS.items():
        quantiles = np.nanquantile(values[name] / UNITS[name], [0, 0.25, 0.5, 0.75, 1])
        related = [_figure(rank_correlation(values[name], other)) for other in others.values()]
        lines.append(f"| {label} | " + " | ".join([*(f"{q:.4g}" for q in quantiles), *related]) + " |")
    return lines


def order(table: Table, accuracy: Objective, cost: Objective) -> list[str]:
    """How often pruning assumes what is not so."""
    facts = order_facts(table, leq, accuracy, cost, MARGIN)
    return [
        f"It compares {facts.pairs} pairs. The larger detector is less accurate in {facts.violated} of them, by more "
        f"than {MARGIN} in {facts.clearly}; it is cheaper in {facts.cheaper}.",
    ]


def front(table: Table, objectives: Sequence[Objective]) -> list[str]:
    accuracy, cost = objectives[0], objectives[-1]
    lines = [f"| {cost.name} | {accuracy.name} | detector |", "|--:|--:|:--|"]
    for row, point in true_front(table, objectives):
        lines.append(f"| {point[-1]:.2f} | {abs(point[0]):.3f} | `{row.code}` |")
    return lines


def _of(values: Any, name: str) -> dict[str, Any]:
    """A mapping in a mapping; an empty one where there is none: provenance is free."""
    found = values.get(name) if hasattr(values, "get") else None
    return found if isinstance(found, dict) else {}


def _list(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _figure(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


if __name__ == "__main__":
    main()
