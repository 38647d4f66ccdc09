"""Does it pay that a candidate begins with its parent's weights? Parents and mutated children, trained both ways.

    python benchmarks/inheritance.py --out docs/results/inheritance

About an hour and a half of one CPU core: parents drawn from slim one-stage detectors, those of recipes/table-bccd.yaml
at its smallest input and with towers of depth 2 as well, mutated children of each, all on BCCD with that recipe's
training, E epochs long. Each child is trained

    scratch          E epochs from scratch, and scored after E/3 on the way: what a search wants to know
    again            the same with another seed: how well one training foretells another
    short            E/3 epochs from scratch, with a schedule of that length
    inherited        E epochs from the parent's weights, and scored after E/3 on the way, as a search with rungs does it
    inherited short  E/3 epochs from the parent's weights, with a schedule of that length

Written: OUT.json with every figure, and OUT.md: gains in AP over training from scratch, and how cheap figures rank the
children beside `scratch`. Expected where inheriting pays: `inherited short` ranks them better than `short` does.

Every training has a folder and, once it has ended, a JSON file under --runs; the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from kept import kept
from provenance import provenance

from detsearch import __version__
from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import UserError
from detsearch.files import make_folder, write_json, write_text
from detsearch.intervals import mean_interval
from detsearch.runs.candidate import TrainedCandidates
from detsearch.runs.data import load_split
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import SearchRecipe
from detsearch.search.correlation import correlate
from detsearch.search.trial import TrialContext
from detsearch.training import log as logs
from detsearch.training.checkpoint import read_checkpoint
from detsearch.training.loop import CHECKPOINT, LOG
from detsearch.types import Fidelity

RECIPE: Final = "recipes/table-bccd.yaml"
HEADS: Final = [*(f"retinanet(depth={n},anchor_scale=3)" for n in (1, 2)), *(f"fcos(depth={n})" for n in (1, 2))]
SLIM: Final = ("space.proposals=[none]", f"space.head={HEADS}", "space.input=[96x72]")
SHORT: Final = 3
"""What full trainings are divided by."""


@dataclass(frozen=True)
class Arm:
    """A way to train a child."""

    name: str
    short: bool = False
    inherits: bool = False
    seed: int = 0


ARMS: Final = (
    Arm("scratch"),
    Arm("again", seed=1),
    Arm("short", short=True),
    Arm("inherited", inherits=True),
    Arm("inherited short", short=True, inherits=True),
)
PARENT: Final = Arm("parent", seed=2)
WAYS: Final = {
    ("again", "full"): "from scratch, another seed",
    ("inherited", "full"): "inherited",
    ("scratch", "few"): "from scratch, on the way",
    ("inherited", "few"): "inherited, on the way",
    ("short", "few"): "from scratch",
    ("inherited short", "few"): "inherited",
}
"""What is compared with `scratch` in full, and what it is called."""


@dataclass(frozen=True)
class Training:
    """One training to be done: the `number` of its detector among parents or children, and that of a child's parent."""

    code: str
    arm: Arm
    number: int
    parent: int | None = None

    @property
    def name(self) -> str:
        place = f"parent-{self.number}" if self.parent is None else f"child-{self.number}"
        return place if self.arm == PARENT else f"{place}-{self.arm.name.replace(' ', '-')}"

    @property
    def heir_of(self) -> str | None:
        return f"parent-{self.parent}" if self.arm.inherits else None


@dataclass(frozen=True)
class Plan:
    """What all trainings share: where they are kept, how long a full one is, the recipe and what is set in it."""

    runs: Path
    epochs: int
    recipe: str
    settings: tuple[str, ...]
    seed: int

    def read(self, epochs: int) -> SearchRecipe:
        """The recipe for a training of so many epochs, its warm-up shortened alike."""
        whole = load_recipe(SearchRecipe, Path(self.recipe), self.settings).training
        warmup = max(1, round(whole.warmup_steps * epochs / whole.epochs))
        scored = str(epochs // SHORT) if epochs == self.epochs else "null"
        own = (f"training.epochs={epochs}", f"training.warmup_steps={warmup}", f"training.eval_epochs={scored}")
        return load_recipe(SearchRecipe, Path(self.recipe), [*self.settings, *own, "device=cpu"])


def drawn(plan: Plan, parents: int, children: int) -> list[Training]:
    """The trainings of distinct parents, and of distinct children of each: mutations of another network."""
    space = read_space(plan.read(plan.epochs).space)
    rng = np.random.default_rng(plan.seed)
    found: list[DetectorSpec] = []
    for _ in range(parents):
        found.append(_new(lambda: space.sample(rng), found))
    heirs: list[DetectorSpec] = []
    for parent in found:
        for _ in range(children):
            heirs.append(_new(lambda parent=parent: space.mutate(parent, rng), [parent, *heirs]))  # type: ignore[misc]
    trainings = [Training(format_detector(spec), PARENT, number) for number, spec in enumerate(found)]
    for number, spec in enumerate(heirs):
        trainings += [Training(format_detector(spec), arm, number, number // children) for arm in ARMS]
    return trainings


def _new(draw: Callable[[], DetectorSpec], known: Sequence[DetectorSpec]) -> DetectorSpec:
    """A detector whose network none of the known ones has."""
    networks = {spec.network for spec in known}
    for _ in range(1000):
        if (spec := draw()).network not in networks:
            return spec
    sys.exit("--recipe: expected a space of more networks for so many parents and children")


def head(plan: Plan, what: Training) -> dict[str, Any]:
    """All that a training depends on."""
    return {
        "detector": what.code,
        "arm": what.arm.name,
        "parent": what.parent,
        "epochs": plan.epochs // SHORT if what.arm.short else plan.epochs,
        "seed": plan.seed + what.arm.seed,
        "settings": [plan.recipe, *plan.settings],
    }


def train(task: tuple[Plan, Training]) -> dict[str, Any]:
    """What a training found; if it has not ended yet it is done, or gone on with."""
    plan, what = task
    torch.set_num_threads(1)
    return kept(plan.runs / f"{what.name}.json", head(plan, what), partial(trained, plan, what))


def trained(plan: Plan, what: Training) -> dict[str, Any]:
    epochs = plan.epochs // SHORT if what.arm.short else plan.epochs
    recipe = plan.read(epochs)
    folder = plan.runs / what.name
    make_folder(folder)
    context = TrialContext(folder=folder, inherits=None if what.heir_of is None else plan.runs / what.heir_of)
    candidates = TrainedCandidates(recipe, len(load_split(recipe.data.file, recipe.data.train).classes), "cpu")
    if context.inherits is not None:
        read_checkpoint(context.inherits / CHECKPOINT)  # what a search does without, a measurement does not
    metrics = candidates.evaluate(parse_detector(what.code), Fidelity(epochs), plan.seed + what.arm.seed, context)
    on_the_way = {r["epoch"]: r["metrics"]["ap"] for r in logs.read(folder / LOG) if "metrics" in r}
    return {
        "ap": {**on_the_way, epochs: metrics.values["ap"]},
        "seconds": metrics.values["train_seconds"],
        "provenance": dict(metrics.provenance),
    }


def summary(plan: Plan, children: int, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How each way to train the children compares with `scratch`."""
    full, few = plan.epochs, plan.epochs // SHORT

    def found(arm: str, epochs: int) -> np.ndarray:
        names = (Training("", Arm(arm), number, 0).name for number in range(children))
        return np.array([done[name]["ap"][str(epochs)] for name in names])

    truth = found("scratch", full)
    rows = []
    for (arm, epochs), begins in WAYS.items():
        figures = found(arm, full if epochs == "full" else few)
        gain, rank = mean_interval((figures - truth).tolist()), correlate(figures, truth).spearman
        assert gain is not None, "there is a child"
        rows.append(
            {
                "arm": arm,
                "begins": begins,
                "epochs": full if epochs == "full" else few,
                "schedule": few if "short" in arm else full,
                "ap": float(figures.mean()),
                "against_scratch": dataclasses.asdict(gain),
                "rank_correlation": None if rank is None else dataclasses.asdict(rank),
            }
        )
    names = (Training("", Arm("inherited"), number, 0).name for number in range(children))
    shares = [done[name]["provenance"]["inherited"]["share"] for name in names]
    return {"children": children, "scratch_ap": float(truth.mean()), "share_inherited": sorted(shares), "rows": rows}


def table(plan: Plan, found: Mapping[str, Any], command: str, when: str) -> str:
    """The summary as Markdown."""
    shares = [100 * share for share in found["share_inherited"]]
    lines = [
        "# Weights inherited from a parent",
        "",
        f"    {command}",
        "",
        when,
        "",
        f"{found['children']} mutated children of trained parents; a full training has {plan.epochs} epochs. Gains are "
        "means of differences to the same child trained in full from scratch, with 95 % intervals; ranks are "
        "Spearman's correlation with those figures, over the children.",
        "",
        "| begins | epochs | schedule of | AP | against scratch | rank correlation with scratch |",
        "|:--|--:|--:|--:|--:|--:|",
        f"| from scratch | {plan.epochs} | {plan.epochs} | {found['scratch_ap']:.3f} | | |",
    ]
    for row in found["rows"]:
        gain, rank = row["against_scratch"], row["rank_correlation"]
        half = "" if gain["half"] is None else f" ± {gain['half']:.3f}"
        ranks = "–" if rank is None else f"{rank['value']:.2f}"
        if rank is not None and rank["low"] is not None:
            ranks += f" ({rank['low']:.2f} to {rank['high']:.2f})"
        cells = [row["begins"], row["epochs"], row["schedule"], f"{row['ap']:.3f}", f"{gain['mean']:+.3f}{half}", ranks]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Of a child's parameters {shares[0]:.0f} to {shares[-1]:.0f} % were inherited, "
            f"{shares[len(shares) // 2]:.0f} % in the median. Children of one parent are no independent draws, so the "
            "intervals are somewhat too narrow.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parents", type=int, default=4)
    parser.add_argument("--children", type=int, default=4, help="of each parent")
    parser.add_argument("--epochs", type=int, default=9, help="of a full training; a multiple of 3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default=RECIPE, help="data, space and training")
    parser.add_argument("--set", action="append", default=[], help="field=value of the recipe, in place of slim ones")
    parser.add_argument("--workers", type=int, default=1, help="trainings at once, on a core each")
    parser.add_argument("--runs", type=Path, default=Path("runs/inheritance"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/inheritance"), help="without suffix")
    options = parser.parse_args()
    if options.epochs < SHORT or options.epochs % SHORT:
        parser.error(f"--epochs: expected a multiple of {SHORT}, got {options.epochs}")
    plan = Plan(options.runs, options.epochs, options.recipe, tuple(options.set or SLIM), options.seed)
    try:
        trainings = drawn(plan, options.parents, options.children)
    except UserError as error:
        parser.error(str(error))
    done: dict[str, dict[str, Any]] = {}
    try:
        with multiprocessing.get_context("forkserver").Pool(options.workers) as pool:
            for parents in (True, False):
                stage = [training for training in trainings if (training.parent is None) == parents]
                for training, found in zip(stage, pool.imap(train, [(plan, t) for t in stage]), strict=True):
                    done[training.name] = found
                    print(f"{training.name}: AP {found['ap']}", file=sys.stderr, flush=True)
    except UserError as error:
        parser.error(str(error))
    command = shlex.join(["python", "benchmarks/inheritance.py", *sys.argv[1:]])
    made = provenance()
    shown = summary(plan, options.parents * options.children, done)
    hours = sum(found["seconds"] for found in done.values()) / 3600
    when = f"{made['date'][:10]}, {made['device']}, one core for each training, {hours:.1f} core-hours of training."
    document = {
        "command": command,
        **made,
        "versions": {"detsearch": __version__, "torch": torch.__version__},
        "epochs": plan.epochs,
        "summary": shown,
        "trainings": done,
    }
    write_json(options.out.with_suffix(".json"), document)
    text = table(plan, shown, command, when)
    write_text(options.out.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
