"""Does a search find what is there? Planted teachers: a module with a known cell produces the targets, and a search
over all cells imitates it.

    python benchmarks/teachers.py                                 an hour on one core

A teacher is a random cell of the full space with random weights. Student and teacher see the same two maps of noise;
targets are the values of the teacher's nodes, so that it is known which node is which (behind the 1x1 convolution that
joins them, the same function may come from other nodes). *Recovered* is the share of the teacher's edges that the
derived cell has too, from the same source and with the same receptive field; *chance* is what random cells recover.
Compared with the search as it is, from the same teachers: decoupling off; gradients of alpha taken on a copy of the
network that never learns (*stale*); and with the targets of one map shown beside another (*shuffled*). The derived
module is trained from new weights, and so are ten random cells.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from provenance import provenance
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.cells import OPERATIONS, SETS, CellSpec, edges_of
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
CONTROLS: Final = ("decoupled", "direct", "stale", "shuffled")
LR: Final = 0.01
ALPHA_LR: Final = 0.03

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


def searched(teacher: Teacher, control: str, iterations: int) -> tuple[CellSpec, float, float]:
    """The cell that a search derives, the entropy of its choices, and the loss at its end (mean of the last tenth)."""
    torch.manual_seed(1000 + teacher.seed)
    space = teacher.space
    sharing = "direct" if control == "direct" else "decoupled"
    settings = SupernetSettings(operations=space.operations, sharing=sharing, nodes=space.nodes)
    generator = torch.Generator().manual_seed(teacher.seed)
    architecture = Architecture(["boxes"], space.operations, nodes=space.nodes, generator=generator)
    edges = [settings.edge(NORMS, CHANNELS, WIDTH) for _ in range(architecture.edges)]
    student = Imitation(make_group(architecture, "boxes", [edges], CHANNELS))
    weights = torch.optim.Adam([p for name, p in student.named_parameters() if not name.endswith("alpha")], lr=LR)
    alpha = alpha_optimiser(architecture, lr=ALPHA_LR)
    deciding = search = Bilevel(student, architecture, weights, alpha)
    if control == "stale":
        copied = copy.deepcopy(student)
        copied.group.alpha = student.group.alpha
        deciding = Bilevel(copied, architecture, weights, alpha)
    losses = []
    for iteration in range(iterations):
        before, last, targets = teacher.batch()
        deciding.architecture_step((before, last, targets.roll(1, 0) if control == "shuffled" else targets))
        anneal(weights, iteration / iterations)
        losses.append(search.weights_step(teacher.batch())["square"])
    decided = architecture.alpha["boxes"]
    return derive(decided, space.operations, space.nodes), entropy(decided), late(losses)


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
    """Everything about one teacher; every search and training of it sees the same batches."""
    wanted = Teacher(space, seed).cell
    row: dict[str, Any] = {"seed": seed, "teacher": str(wanted)}
    for control in options.controls:
        began = time.perf_counter()
        cell, undecided, loss = searched(Teacher(space, seed), control, options.iterations)
        row[control] = {
            "cell": str(cell),
            "recovered": recovered(wanted, cell),
            "entropy": undecided,
            "loss": loss,
            "seconds": round(time.perf_counter() - began, 1),
        }
    generator = torch.Generator().manual_seed(2000 + seed)
    others = [space.random(generator) for _ in range(RANDOM_CELLS)]
    row["chance"] = statistics.fmean(recovered(wanted, space.random(generator)) for _ in range(1000))
    if options.fit:
        own = fitted(Teacher(space, seed), CellSpec.parse(row[options.controls[0]]["cell"]), options.fit)
        random = [fitted(Teacher(space, seed), cell, options.fit) for cell in others]
        row["fit"] = {"derived": own, "random": random, "better_than": sum(own < one for one in random)}
    return row


def summary(rows: list[dict[str, Any]], controls: list[str]) -> list[str]:
    """A table over the teachers, each control in pairs with the first search."""
    lines = [f"| search | recovered, mean (least to most) | against {controls[0]} |", "|:--|--:|:--|"]
    own = [row[controls[0]]["recovered"] for row in rows]
    for control in controls:
        found = [row[control]["recovered"] for row in rows]
        less = sum(a > b for a, b in zip(own, found, strict=True))
        more = sum(a < b for a, b in zip(own, found, strict=True))
        pairs = f"less in {less}, more in {more} of {len(rows)}" if control != controls[0] else ""
        lines.append(f"| {control} | {statistics.fmean(found):.2f} ({min(found):.2f} to {max(found):.2f}) | {pairs} |")
    lines.append(f"| chance | {statistics.fmean(row['chance'] for row in rows):.2f} | |")
    if all("fit" in row for row in rows):
        places = ", ".join(str(row["fit"]["better_than"]) for row in rows)
        lines += ["", f"The derived modules fit better than {places} of {RANDOM_CELLS} random cells."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first teacher")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--operations", choices=[name for name in SETS if name != "darts"], default="full")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--fit", type=int, default=200, help="steps of training the derived and random cells; 0: not")
    parser.add_argument("--controls", nargs="+", choices=CONTROLS, default=list(CONTROLS))
    parser.add_argument("--out", type=Path, default=Path("docs/results/teachers"), help="without suffix")
    options = parser.parse_args()
    torch.set_num_threads(1)
    space = Space(SETS[options.operations], options.nodes)
    rows: list[dict[str, Any]] = []
    document: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), **provenance(), "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(options.first, options.first + options.seeds):
        rows.append(experiment(space, seed, options))
        print(json.dumps(rows[-1]), flush=True)
        options.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    when = f"{document['date'][:10]}, {document['device']}."
    table = summary(rows, options.controls)
    lines = ["# Planted teachers", "", f"    {document['command']}", "", when, "", *table, ""]
    options.out.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(table))


if __name__ == "__main__":
    main()
