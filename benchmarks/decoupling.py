"""What decoupling does, on classification (FAD, ECCV 2020, ablations): how often searches choose t1 and t2, on whose
representations the other transformations are built, and how good the derived cells are.

    python benchmarks/decoupling.py                                  drawn shapes; two or three hours on one core
    python benchmarks/decoupling.py --data DATA --images 5000 --warm-up 1 --epochs 3 --train-epochs 5
                                                                     as many steps on CIFAR-10, of which DATA holds the
                                                                     folder cifar-10-batches-bin: four times as long
    python benchmarks/decoupling.py --data DATA --device cuda --cells 8 --channels 16 --warm-up 0 --epochs 50 \\
        --batch 64 --alpha-lr 3e-4 --train-cells 20 --train-channels 36 --train-epochs 600 --train-batch 96
                                                                     DARTS's sizes, as in the paper; GPU-days

Three arms: *decoupled*, representations shared and t1 and t2 with functions of their own; *direct*, shared without
that; *unshared*. Each is searched several times, search number n of all arms on the same halves and batches, and what
each search derives is trained several times from new weights, on all training images, and scored on the test images.
A search is `supernet.bilevel`, first order, after a warm-up of the weights alone, so that a short one does not choose
among convolutions that have learnt nothing yet. Normal cells choose among t1 to t5 and the identity, reduction
cells among max pooling, average pooling and the identity (`detsearch.supernet.classification`).

A share is that of the eight kept edges of a normal cell; blind choices would give t1 and t2 a third. *Ahead* is the
share of all fourteen edges on which t1 or t2 is the strongest convolution, also where the identity is kept: two fifths
if blind. Intervals (95 %) are over searches: the trainings of one search are no independent tries of an arm, so their
mean stands for it. The paper (CIFAR-10): t1 and t2 are chosen 30 % of the time without decoupling, 86 to 87 % with it
or without sharing; test error 2.98 ± 0.08 decoupled, 3.15 ± 0.11 direct, 2.93 ± 0.11 unshared.

Every search and every training leaves a file under --runs, and the same command goes on behind those that are there;
one that was cut off begins again.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from kept import kept
from torch import nn

from detsearch.arch.cells import CellSpec
from detsearch.data.arrays import drawn_shapes, read_cifar10
from detsearch.errors import UserError
from detsearch.files import write_json
from detsearch.intervals import Interval, mean_interval
from detsearch.runs.device import resolve_device
from detsearch.supernet.bilevel import Bilevel, alpha_optimiser
from detsearch.supernet.cells import Architecture
from detsearch.supernet.classification import (
    NORMAL,
    CellClassifier,
    ClassifierSize,
    build_derived,
    build_searched,
    choices,
    share_of,
)
from detsearch.supernet.derive import Choice
from detsearch.supernet.detector import Sharing
from detsearch.training.seeding import seed_all

ARMS: Final[dict[str, Sharing]] = {"decoupled": "decoupled", "direct": "direct", "unshared": "none"}
SHAPES: Final = "shapes"
SIDE: Final = 16
TRAIN_SEED, TEST_SEED = 1, 2
CONVOLUTIONS: Final = 5
"""t1 to t5, among the choices of an edge."""
MOMENTUM: Final = 0.9
DECAY: Final = 3e-4
CLIP: Final = 5.0
"""DARTS's."""
SEARCH_OPTIONS: Final = (
    "data",
    "images",
    "test_images",
    "stream",
    "cells",
    "channels",
    "warm_up",
    "epochs",
    "batch",
    "lr",
    "alpha_lr",
)
SEARCH_RESULTS: Final = ("cells", "shares", "ahead", "entropy", "loss", "seconds")
TRAIN_OPTIONS: Final = ("train_cells", "train_channels", "train_epochs", "train_batch", "train_lr")
_SEARCH, _TRAIN, _ALPHA, _OURS, _THEIRS = range(5)  # streams of random numbers


class Study:
    """The images, and what is done with them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        if options.data == SHAPES:
            self.train = drawn_shapes(options.images or 1500, TRAIN_SEED, SIDE)
            self.test = drawn_shapes(options.test_images or 1000, TEST_SEED, SIDE)
        else:
            train, test = read_cifar10(Path(options.data))
            self.train = train.subset(torch.arange(len(train))[: options.images])
            self.test = test.subset(torch.arange(len(test))[: options.test_images])
        self.shift = self.train.pixels.shape[-1] // 8

    def searched(self, arm: str, number: int) -> dict[str, Any]:
        """Search number `number` of an arm: its cells, the shares of their operations, and how it went."""
        options, began = self.options, time.perf_counter()
        seed_all(_SEARCH, number)
        generator = torch.Generator().manual_seed(_seed(_ALPHA, number))
        size = ClassifierSize(cells=options.cells, channels=options.channels, classes=self.train.classes)
        network, architecture = build_searched(size, stream=options.stream, sharing=ARMS[arm], generator=generator)
        network.to(options.device).train()
        alphas = {id(parameter) for parameter in architecture.parameters()}
        learning = [parameter for parameter in network.parameters() if id(parameter) not in alphas]
        weights = torch.optim.SGD(learning, lr=options.lr, momentum=MOMENTUM, weight_decay=DECAY)
        search = Bilevel(
            network, architecture, weights, alpha_optimiser(architecture, lr=options.alpha_lr), clip_norm=CLIP
        )
        first, second = self.train.halves(number)
        ours = first.batches(options.batch, _seed(_OURS, number), shift=self.shift)
        theirs = second.batches(options.batch, _seed(_THEIRS, number), shift=self.shift)
        epoch = max(1, len(second) // options.batch)
        alone, iterations = options.warm_up * epoch, (options.warm_up + options.epochs) * epoch
        losses = []
        for iteration in range(iterations):
            _anneal(weights, options.lr, iteration / iterations)
            if iteration >= alone:
                search.architecture_step(self._placed(next(ours)))
            losses.append(search.weights_step(self._placed(next(theirs)))["cross_entropy"])
        found = Choice.of(architecture, iterations).record()
        normal = CellSpec.parse(found["cells"][NORMAL])
        shares = {token: share_of(normal, (token,)) for token in choices(options.stream)[NORMAL]}
        loss = statistics.fmean(losses[-max(1, iterations // 10) :])
        seconds = round(time.perf_counter() - began, 1)
        return {**found, "shares": shares, "ahead": _ahead(architecture), "loss": loss, "seconds": seconds}

    def trained(self, cells: dict[str, str], number: int, repeat: int) -> dict[str, Any]:
        """Training number `repeat` of the cells of search `number`: its share of wrong answers to the test images."""
        options, began = self.options, time.perf_counter()
        seed_all(_TRAIN, number, repeat)
        size = ClassifierSize(cells=options.train_cells, channels=options.train_channels, classes=self.train.classes)
        network = build_derived(size, {kind: CellSpec.parse(cell) for kind, cell in cells.items()})
        network.to(options.device).train()
        weights = torch.optim.SGD(network.parameters(), lr=options.train_lr, momentum=MOMENTUM, weight_decay=DECAY)
        batches = self.train.batches(options.train_batch, _seed(_TRAIN, number, repeat), shift=self.shift)
        steps = max(1, options.train_epochs * (len(self.train) // options.train_batch))
        for step in range(steps):
            _anneal(weights, options.train_lr, step / steps)
            loss = network(*self._placed(next(batches)))["cross_entropy"]
            weights.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            weights.step()
        parameters = sum(parameter.numel() for parameter in network.parameters())
        seconds = round(time.perf_counter() - began, 1)
        return {"error": self._error(network), "loss": loss.item(), "parameters": parameters, "seconds": seconds}

    @torch.inference_mode()
    def _error(self, network: CellClassifier) -> float:
        network.eval()
        parts = zip(self.test.pixels.split(500), self.test.labels.split(500), strict=True)
        wrong = sum(
            int((network.logits(pixels.to(self.options.device)).argmax(dim=1).cpu() != labels).sum())
            for pixels, labels in parts
        )
        return wrong / len(self.test)

    def _placed(self, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return batch[0].to(self.options.device), batch[1].to(self.options.device)


def _ahead(architecture: Architecture) -> float:
    """The share of a normal cell's edges on which t1 or t2 is the strongest of the convolutions, which come first."""
    strongest = architecture.alpha[NORMAL].detach()[:, :CONVOLUTIONS].argmax(dim=1)
    return float((strongest < 2).float().mean())


def _seed(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _anneal(optimiser: torch.optim.Optimizer, lr: float, progress: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * progress))


def rows_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every search with its trainings, from files where they are done."""
    study = Study(options)
    searching = {name: getattr(options, name) for name in SEARCH_OPTIONS}
    training = searching | {name: getattr(options, name) for name in TRAIN_OPTIONS}
    rows = []
    for number in range(options.searches):
        for arm in options.arms:
            row = kept(
                options.runs / f"{arm}-{number}.json",
                searching | {"arm": arm, "search": number},
                lambda arm=arm, number=number: study.searched(arm, number),
                device=options.device,
            )
            tried = [
                kept(
                    options.runs / f"{arm}-{number}-{repeat}.json",
                    training | {"arm": arm, "search": number, "training": repeat, "cells": row["cells"]},
                    lambda cells=row["cells"], number=number, repeat=repeat: study.trained(cells, number, repeat),
                    device=options.device,
                )
                for repeat in range(options.trainings)
            ]
            about = {name: row[name] for name in ("date", "device", "commit", *SEARCH_RESULTS)}
            errors = {"errors": [one["error"] for one in tried], "parameters": [one["parameters"] for one in tried]}
            rows.append({"arm": arm, "search": number, **about, **errors})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: list[dict[str, Any]], arms: list[str], stream: str) -> list[str]:
    """Means over the searches, and how each arm differs from the first, search by search."""
    first, second = choices(stream)[NORMAL][:2]  # type: ignore[index]
    lines = [
        f"| arm | t1 or t2 | t1 | t2 | identity | t1 or t2, less {arms[0]}'s | ahead | less {arms[0]}'s "
        f"| test error | less {arms[0]}'s |",
        "|:--|" + "--:|" * 9,
    ]
    both, ahead, errors = {}, {}, {}
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        both[arm] = [row["shares"][first] + row["shares"][second] for row in own]
        ahead[arm] = [row["ahead"] for row in own]
        errors[arm] = [statistics.fmean(row["errors"]) for row in own if row["errors"]]
        single = [statistics.fmean(row["shares"][token] for row in own) for token in (first, second, "skip")]
        cells = [arm, _shown(mean_interval(both[arm])), *(f"{100 * share:.0f} %" for share in single)]
        cells += [
            _difference(both, arm, arms[0]),
            _shown(mean_interval(ahead[arm])),
            _difference(ahead, arm, arms[0]),
            _shown(mean_interval(errors[arm])),
            _difference(errors, arm, arms[0]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _difference(values: dict[str, list[float]], arm: str, other: str) -> str:
    return (
        "" if arm == other else _shown(mean_interval([a - b for a, b in zip(values[arm], values[other], strict=True)]))
    )


def _shown(found: Interval | None) -> str:
    if found is None:
        return ""
    return f"{100 * found.mean:.1f}" + ("" if found.half is None else f" ± {100 * found.half:.1f}") + " %"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=SHAPES, help="shapes: drawn ones; or the folder of CIFAR-10's binary version")
    parser.add_argument("--images", type=int, help="training images; shapes: 1500 unless said, CIFAR-10: all")
    parser.add_argument("--test-images", type=int, help="test images; shapes: 1000 unless said, CIFAR-10: all")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="the first is compared with")
    parser.add_argument("--searches", type=int, default=4, help="of every arm")
    parser.add_argument("--trainings", type=int, default=5, help="of what every search derives")
    parser.add_argument("--stream", choices=["sep", "std"], default="sep", help="convolutions of t1 to t5")
    parser.add_argument("--cells", type=int, default=5, help="in a row, while searching")
    parser.add_argument("--channels", type=int, default=8, help="of the first cell, while searching")
    parser.add_argument("--warm-up", type=int, default=4, help="epochs of the weights alone, before those of a search")
    parser.add_argument("--epochs", type=int, default=8, help="of a search, over half of the images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.025)
    parser.add_argument("--alpha-lr", type=float, default=0.02)
    parser.add_argument("--train-cells", type=int, default=5)
    parser.add_argument("--train-channels", type=int, default=8)
    parser.add_argument("--train-epochs", type=int, default=15)
    parser.add_argument("--train-batch", type=int, default=32)
    parser.add_argument("--train-lr", type=float, default=0.025)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/decoupling"), help="what is done already")
    parser.add_argument("--out", type=Path, default=Path("docs/results/decoupling.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        options.device = resolve_device(options.device)
        rows = rows_of(options)
        lines = table(rows, options.arms, options.stream)
        settings = {name: getattr(options, name) for name in (*SEARCH_OPTIONS, *TRAIN_OPTIONS)}
        command = shlex.join(["python", *sys.argv])
        write_json(options.out, {"command": command, "settings": settings, "table": lines, "rows": rows})
    except UserError as error:
        parser.error(str(error))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
