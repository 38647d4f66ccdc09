"""How well do models predict detectors that were not trained, and how long do they take: ours against scikit-learn's.

    pip install scikit-learn
    python benchmarks/surrogates.py benchmarks/tables/bccd.json.gz --out docs/results/surrogates

Minutes on one core. From a table some detectors are drawn and one training of each is shown to the models, some in full
and some only to the first of the epochs at which the default pauses, as what stands for AP there (`search.early`);
asked for is the full training of all others (means over seeds). Printed are, over the drawings, the mean rank
correlation, the root of the mean squared error, the mean log density of the truth under the predicted normal
distribution (in nats, larger is better), and the seconds of fitting and predicting.

The peers: a Gaussian process with a length for each feature (maximum likelihood), and a forest whose trees' spread is
taken as uncertainty; their features are the fields of the specs, one column for each number and for each value of
the others, and the logarithm of the epochs.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance
from replays import world_of

from detsearch.errors import UserError
from detsearch.search.correlation import rank_correlation
from detsearch.search.early import EARLY, early_value
from detsearch.search.features import GROUPS, distances, entries, part
from detsearch.search.gaussian import Observations, predict
from detsearch.search.objective import Objective
from detsearch.search.table import Table
from detsearch.search.tablefacts import by_seed

SHOWN = ((8, 0), (16, 0), (32, 0), (8, 24), (8, 56), (16, 48))
"""Trainings in full, and those only to the early fidelity."""

Model = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""``model(which, epochs, values)``: means and deviations of all detectors in full."""


def ours(table: Table) -> Model:
    specs = [row.spec for row in table.rows]
    between = distances(specs, specs)

    def model(which: np.ndarray, epochs: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = Observations(which=which, epochs=epochs, values=values, distances=between[:, which[:, None], which])
        return predict(seen, between[:, :, which], range(len(specs)), float(table.full.epochs))

    return model


def peer(table: Table, make: Callable[[int], Any]) -> Model:
    from sklearn.feature_extraction import DictVectorizer

    described = [
        {f"{group}{name}": value for group in GROUPS for name, value in entries(part(row.spec, group))}
        for row in table.rows
    ]
    features = DictVectorizer(sparse=False).fit_transform(described)
    features = features[:, np.ptp(features, axis=0) > 0]
    features = (features - features.mean(axis=0)) / features.std(axis=0)

    def model(which: np.ndarray, epochs: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        several = len(np.unique(epochs)) > 1

        def inputs(rows: np.ndarray, after: np.ndarray) -> np.ndarray:
            return np.column_stack([features[rows], np.log(after)]) if several else features[rows]

        every = inputs(np.arange(len(features)), np.full(len(features), table.full.epochs))
        centre, scale = values.mean(), values.std()
        regressor = make(every.shape[1])
        regressor.fit(inputs(which, epochs), (values - centre) / scale)
        if hasattr(regressor, "estimators_"):
            trees = np.array([tree.predict(every) for tree in regressor.estimators_])
            mean, deviation = trees.mean(axis=0), trees.std(axis=0)
        else:
            mean, deviation = regressor.predict(every, return_std=True)
        return mean * scale + centre, np.maximum(deviation, 1e-3) * scale

    return model


def gaussian_process(columns: int) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel() * RBF(np.full(columns, math.sqrt(columns)), (0.3, 300)) + WhiteKernel(0.05, (1e-4, 1))
    return GaussianProcessRegressor(kernel, random_state=0)


def forest(columns: int) -> Any:  # noqa: ARG001  it needs no scale for each
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(200, random_state=0)


MODELS: dict[str, Callable[[Table], Model]] = {
    "detsearch.search.gaussian": ours,
    "GaussianProcessRegressor": lambda table: peer(table, gaussian_process),
    "RandomForestRegressor": lambda table: peer(table, forest),
}


def young(table: Table, figure: str, epochs: int) -> np.ndarray:
    """(detectors,) what a search takes for a figure after a part of the first seed's training."""
    objective = Objective(figure, maximise=True)
    found = np.full(len(table.rows), np.nan)
    for index, row in enumerate(table.rows):
        training = row.trainings.get(table.seeds[0])
        if training is not None and figure in (values := training.figures.get(epochs, {})):
            found[index] = -early_value(values, objective, EARLY)
    return found


def scored(table: Table, model: Model, soon: int, full: int, early: int, drawing: int, figure: str) -> list[float]:
    """The figures of one drawing of `full` trainings and `early` ones, the latter of so many epochs as `soon` says."""
    rng = np.random.default_rng([drawing, full, early])
    late = table.full.epochs
    known = {late: by_seed(table, figure, table.full)[:, 0], soon: young(table, figure, soon)}
    truth = np.nanmean(by_seed(table, figure, table.full), axis=1)
    usable = np.flatnonzero(np.isfinite(known[late]) & np.isfinite(known[soon]) & np.isfinite(truth))
    drawn = rng.permutation(usable)[: full + early]
    # As in a study, what was trained in full passed the early fidelity as well.
    which = np.concatenate([drawn, drawn[:full]]) if early else drawn[:full]
    epochs = np.concatenate([np.full(len(drawn), soon), np.full(full, late)]) if early else np.full(full, late)
    values = np.concatenate([known[soon][drawn], known[late][drawn[:full]]]) if early else known[late][drawn[:full]]
    begin = time.perf_counter()
    mean, deviation = model(which, epochs.astype(float), values)
    seconds = time.perf_counter() - begin
    asked = np.setdiff1d(usable, drawn[:full])
    error = mean[asked] - truth[asked]
    density = -0.5 * (error / deviation[asked]) ** 2 - np.log(deviation[asked] * math.sqrt(2 * math.pi))
    correlation = rank_correlation(mean[asked], truth[asked])
    return [correlation, float(np.sqrt(np.mean(error**2))), float(density.mean()), seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", help="files of `detsearch study table`")
    parser.add_argument("--drawings", type=int, default=10)
    parser.add_argument("--figure", default="ap")
    parser.add_argument("--out", type=Path, default=Path("docs/results/surrogates"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="sklearn")  # a length at its bound is no news
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.tables:
        try:
            world = world_of(str(path), (f"{options.figure}:max", "latency_ms:min"))
            soon = world.recorded(world.pauses)[0]
        except UserError as error:
            parser.error(str(error))
        table, name = world.table, path.name.split(".")[0]
        found: dict[str, dict[str, list[float]]] = {}
        lines = [
            f"Early is after {soon} of {table.full.epochs} epochs.",
            "",
            "| in full | early | model | rank correlation | rms error | log density | seconds |",
            "|--:|--:|:--|--:|--:|--:|--:|",
        ]
        for full, early in SHOWN:
            for label, make in MODELS.items():
                model = make(table)
                runs = [scored(table, model, soon, full, early, n, options.figure) for n in range(options.drawings)]
                means = np.mean(runs, axis=0)
                found.setdefault(label, {})[f"{full}+{early}"] = means.round(4).tolist()
                lines.append(f"| {full} | {early} | {label} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
        command = f"python benchmarks/surrogates.py {path} --drawings {options.drawings}"
        made = provenance()
        when = f"{made['date'][:10]}, {made['device']}."
        text = "\n".join([f"# Surrogates on {name}", "", f"    {command}", "", when, "", *lines, ""])
        (options.out / f"{name}.md").write_text(text, encoding="utf-8")
        versions = {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": version("scikit-learn"),
        }
        document = {"command": command, **made, "versions": versions, "means": found}
        (options.out / f"{name}.json").write_text(json.dumps(document) + "\n")
        print(text)


if __name__ == "__main__":
    main()
