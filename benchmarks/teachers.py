"""Does a search find what is there? Planted teachers: a module with a known cell produces the targets, and a search
over all cells imitates it.

    python benchmarks/teachers.py                                 two hours on one core

Each teacher leaves a file under --runs, and the same command goes on behind those that are there.

A teacher is a random cell of the full space with random weights. Student and teacher see the same two maps of noise;
targets are the values of the teacher's nodes, so that it is known which node is which (behind the 1x1 convolution that
joins them, the same function may come from other nodes). *Recovered* is the share of the teacher's edges that the
derived cell has too, from the same source and with the same receptive field; *chance* is what random cells recover, and
*before* what would be derived from the alpha that a search begins with.
Compared with the search as it is, from the same teachers: decoupling off; gradients of alpha taken on a copy of the
network that never learns (*stale*); and with the targets of one map shown beside another (*shuffled*). The derived
module is trained from new weights, and so are the teacher's own cell and ten random ones, on the same batches. Every
batch is new: alpha and weights never see the same maps, and a loss is one on maps that were not learnt from.

Asked for (95 % intervals over the teachers): 0.70 recovered, less without decoupling and with wrong gradients, and
derived modules that fit better than nine of ten random ones.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shlex
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from kept import kept
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.cells import OPERATIONS, SETS, CellSpec, edges_of
from detsearch.errors import UserError
from detsearch.files import write_json, write_text
from detsearch.intervals import Interval, mean_interval
from detsearch.nn.cells.cell import CellGroup
from detsearch.nn.norms import Norms
from detsearch.supernet.bilevel import CLIP_NORM, Bilevel, alpha_optimiser
from detsearch.supernet.cells import Architecture, make_group
from detsearch.supernet.derive import derive, entropy
from detsearch.supernet.detector import SupernetSettings

CHANNELS: Final = 8
WIDTH: Final = 8
SIDE: Final = 12
BATCH: Final = 4
NORMS: Final = Norms("gn", "gn")
RANDOM_CELLS: Final = 10
RECOVERED: Final = 0.7
BETTER_THAN: Final = 9
"""What is asked for: the share of edges, and how many of the random cells fit worse."""
CONTROLS: Final = ("decoupled", "direct", "stale", "shuffled")
LR: Final = 0.01
DECIDING: Final = ("nodes", "operations", "iterations", "alpha_lr", "alpha_decay", "fit", "controls")

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Space:
    """The cells among which teachers are, and that are searched."""

    operations: tuple[str, ...]
    nodes: int

    def random(self, generator: torch.Generator) -> CellSpec:
        """Two edges into every node, from any sources, with any operations."""
        shape = len(edges_of(self.nodes)), len(self.operations) + 1
        return derive(torch.randn(shape, generator=generator), self.operations, self.nodes)


class Nodes(nn.Module):
    """In place of the convolution that joins a cell's nodes: their values side by side, (B, nodes * C, H, W)."""

    def forward(self, joined: Tensor) -> Tensor:
        return joined


class Imitation(nn.Module):
    """A group of one cell, derived or with all edges, whose nodes are to have given values."""

    def __init__(self, group: nn.Module) -> None:
        super().__init__()
        self.group = group
        self.group.cells[0].out = Nodes()  # type: ignore[union-attr, index]

    def forward(self, before: Tensor, last: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"square": F.mse_loss(self.group(before, last), targets)}


class Teacher:
    """A cell with random weights, and endless batches of maps with what it makes of them. A seed is a teacher."""

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.cell = space.random(self.generator)
        torch.manual_seed(seed)
        self.group = Imitation(plain_group(self.cell)).requires_grad_(False).group

    def batch(self) -> Batch:
        before, last = torch.randn((2, BATCH, CHANNELS, SIDE, SIDE), generator=self.generator)
        return before, last, self.group(before, last)


def plain_group(cell: CellSpec) -> CellGroup:
    return CellGroup(NORMS, cell, CHANNELS, WIDTH, 1)


def recovered(teacher: CellSpec, found: CellSpec) -> float:
    """Share of the teacher's edges that are found, from the same source and with the same receptive field."""
    hits, edges = 0, 0
    for wanted, got in zip(teacher.nodes, found.nodes, strict=True):
        fields = {edge.source: OPERATIONS[edge.operation].receptive_field for edge in got}
        hits += sum(fields.get(edge.source) == OPERATIONS[edge.operation].receptive_field for edge in wanted)
        edges += len(wanted)
    return hits / edges


@dataclass(frozen=True)
class Found:
    """What a search derives, what it would have derived before its first step, the entropy of its choices, and its loss
    at its end (mean of the last tenth)."""

    cell: CellSpec
    before: CellSpec
    entropy: float
    loss: float


def searched(teacher: Teacher, control: str, options: argparse.Namespace) -> Found:
    """A search that is shown what a teacher makes."""
    torch.manual_seed(1000 + teacher.seed)
    space = teacher.space
    sharing = "direct" if control == "direct" else "decoupled"
    settings = SupernetSettings(operations=space.operations, sharing=sharing, nodes=space.nodes)
    # Not the teacher's own numbers, of which its cell was made: alpha would begin with the answer.
    generator = torch.Generator().manual_seed(3000 + teacher.seed)
    architecture = Architecture(["boxes"], space.operations, nodes=space.nodes, generator=generator)
    edges = [settings.edge(NORMS, CHANNELS, WIDTH) for _ in range(architecture.edges)]
    student = Imitation(make_group(architecture, "boxes", [edges], CHANNELS))
    weights = torch.optim.Adam([p for name, p in student.named_parameters() if not name.endswith("alpha")], lr=LR)
    alpha = alpha_optimiser(architecture, lr=options.alpha_lr, weight_decay=options.alpha_decay)
    deciding = search = Bilevel(student, architecture, weights, alpha)
    if control == "stale":
        copied = copy.deepcopy(student)
        copied.group.alpha = student.group.alpha
        deciding = Bilevel(copied, architecture, weights, alpha)
    decided = architecture.alpha["boxes"]
    at_first, losses = derive(decided, space.operations, space.nodes), []
    for iteration in range(options.iterations):
        before, last, targets = teacher.batch()
        deciding.architecture_step((before, last, targets.roll(1, 0) if control == "shuffled" else targets))
        anneal(weights, iteration / options.iterations)
        losses.append(search.weights_step(teacher.batch())["square"])
    return Found(derive(decided, space.operations, space.nodes), at_first, entropy(decided), late(losses))


def fitted(teacher: Teacher, cell: CellSpec, iterations: int) -> float:
    """The loss of a cell after training it from new weights (mean of the last tenth)."""
    torch.manual_seed(1000 + teacher.seed)
    student = Imitation(plain_group(cell))
    weights = torch.optim.Adam(student.parameters(), lr=LR)
    losses = []
    for iteration in range(iterations):
        anneal(weights, iteration / iterations)
        loss = student(*teacher.batch())["square"]
        weights.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), CLIP_NORM)
        weights.step()
        losses.append(loss.item())
    return late(losses)


def anneal(optimiser: torch.optim.Optimizer, progress: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * progress))


def late(losses: list[float]) -> float:
    return statistics.fmean(losses[-max(1, len(losses) // 10) :])


def experiment(space: Space, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one teacher; all searches of it see the same batches, and so do all trainings."""
    wanted = Teacher(space, seed).cell
    row: dict[str, Any] = {"seed": seed, "teacher": str(wanted)}
    for control in options.controls:
        began = time.perf_counter()
        found = searched(Teacher(space, seed), control, options)
        row[control] = {
            "cell": str(found.cell),
            "recovered": recovered(wanted, found.cell),
            "before": recovered(wanted, found.before),
            "entropy": found.entropy,
            "loss": found.loss,
            "seconds": round(time.perf_counter() - began, 1),
        }
    generator = torch.Generator().manual_seed(2000 + seed)
    others = [space.random(generator) for _ in range(RANDOM_CELLS)]
    row["chance"] = statistics.fmean(recovered(wanted, space.random(generator)) for _ in range(1000))
    if options.fit:
        derived = CellSpec.parse(row[options.controls[0]]["cell"])
        own, teacher, *random = (fitted(Teacher(space, seed), cell, options.fit) for cell in (derived, wanted, *others))
        better_than = sum(own < one for one in random)
        row["fit"] = {"derived": own, "teacher": teacher, "random": random, "better_than": better_than}
    return row


def summary(rows: list[dict[str, Any]], controls: list[str]) -> list[str]:
    """A table over the teachers, each control in pairs with the first search, and what was asked for beside it."""
    lines = [
        f"| search | recovered | least to most | before | less than {controls[0]} by | less, equal, more |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    own = [row[controls[0]]["recovered"] for row in rows]
    for control in controls:
        found = [row[control]["recovered"] for row in rows]
        first = shown(mean_interval([row[control]["before"] for row in rows]))
        cells = [control, shown(mean_interval(found)), f"{min(found):.2f} to {max(found):.2f}", first, "", ""]
        if control != controls[0]:
            lost = [a - b for a, b in zip(own, found, strict=True)]
            places = sum(d > 0 for d in lost), sum(d == 0 for d in lost), sum(d < 0 for d in lost)
            cells[4:] = [shown(mean_interval(lost)), ", ".join(map(str, places))]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| random cells | {statistics.fmean(row['chance'] for row in rows):.2f} | | | | |", ""]
    lines.append(
        f"Asked for: {RECOVERED:.2f}; found by {controls[0]} in {len(rows)} teachers: {shown(mean_interval(own))}."
    )
    if all("fit" in row for row in rows):
        better = [row["fit"]["better_than"] for row in rows]
        enough = sum(count >= BETTER_THAN for count in better)
        lines.append(
            f"The derived modules fit better than {', '.join(map(str, better))} of {RANDOM_CELLS} random cells: "
            f"than {BETTER_THAN} or more in {enough} of {len(rows)} teachers, {statistics.fmean(better):.1f} in the "
            "mean."
        )
        ratio = statistics.fmean(row["fit"]["derived"] / row["fit"]["teacher"] for row in rows)
        lines.append(f"Their loss is {ratio:.2f} times that of the teacher's own cell from new weights, in the mean.")
    return lines


def shown(found: Interval | None) -> str:
    assert found is not None
    return f"{found.mean:.2f}" + ("" if found.half is None else f" ± {found.half:.2f}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=10, help="seed of the first teacher; to 9 were used to settle H")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--operations", choices=[name for name in SETS if name != "darts"], default="full")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--alpha-lr", type=float, default=0.03)
    parser.add_argument("--alpha-decay", type=float, default=1e-3, help="weight decay of alpha; DARTS's unless said")
    parser.add_argument("--fit", type=int, default=200, help="steps of training the derived and random cells; 0: not")
    parser.add_argument("--controls", nargs="+", choices=CONTROLS, default=list(CONTROLS))
    parser.add_argument("--runs", type=Path, default=Path("runs/teachers"), help="what is done already")
    parser.add_argument("--out", type=Path, default=Path("docs/results/teachers"), help="without suffix")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    space = Space(SETS[options.operations], options.nodes)
    settings = {name: getattr(options, name) for name in DECIDING}
    rows: list[dict[str, Any]] = []
    for seed in range(options.first, options.first + options.seeds):
        path = options.runs / f"teacher-{seed}.json"
        try:
            rows.append(kept(path, settings | {"seed": seed}, lambda seed=seed: experiment(space, seed, options)))
        except UserError as error:
            parser.error(str(error))
        print(json.dumps({name: value for name, value in rows[-1].items() if name != "settings"}), flush=True)
    command = shlex.join(["python", *sys.argv])
    write_json(options.out.with_suffix(".json"), {"command": command, "settings": settings, "rows": rows})
    facts = (dict.fromkeys(row[name] for row in rows) for name in ("commit", "device"))
    commits, devices = map(", ".join, facts)
    days = sorted(row["date"][:10] for row in rows)
    made = f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, one thread of {devices}, commit {commits}."
    table = summary(rows, options.controls)
    text = "\n".join(["# Planted teachers", "", f"    {command}", "", made, "", *table, ""])
    write_text(options.out.with_suffix(".md"), text)
    print("\n".join(table))


if __name__ == "__main__":
    main()
