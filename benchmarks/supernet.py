"""What does sharing save, and what does a search cost: the supernet's forms against each other, interleaved in one run.

    python benchmarks/supernet.py                                        scaled down, on the CPU: minutes on a core
    python benchmarks/supernet.py --device cuda --network resnet50/fpn/fcos --size 693x416 --batch 4
                                                                         the paper's search setting, on a GPU
    benchmarks/gpu.sh                                                    all figures that need a GPU

*Module* rows are one forward and backward pass of the searched module alone, over maps of all levels, as when weights
are trained: time, and bytes that it keeps for the backward pass. *Step* rows are steps of a search of the whole
detector (`supernet.bilevel`): of alpha, of alpha with gradients to everything, of the weights, and both together. The
plain form is unshared, edge by edge, with gradients to everything. Variants take turns, so that drift of the clock
meets all alike; a ratio is the median over the rounds, above 1 the second is faster. The projection is one whole search
of 12,500 iterations of one step of each kind (the paper's: 14.4 hours on a TITAN Xp).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from detectors import CLASSES, Clock, Step, batch, race
from provenance import begun
from torch import Tensor, nn

from detsearch.arch.cells import SETS
from detsearch.arch.code import format_network, parse_network
from detsearch.arch.head_cells import with_tower
from detsearch.arch.modules.towers import CellTowersSpec
from detsearch.supernet.bilevel import Bilevel, alpha_optimiser
from detsearch.supernet.detector import Supernet, SupernetSettings, build_supernet
from detsearch.types import InputSize

ITERATIONS: Final = 12_500
STRIDES: Final = (8, 16, 32, 64, 128)
FORMS: Final = {
    "shared, together": SupernetSettings(),
    "shared, one by one": SupernetSettings(grouped=False),
    "unshared, together": SupernetSettings(sharing="none"),
    "unshared, one by one": SupernetSettings(sharing="none", grouped=False),
}
MODULE_RATIOS: Final = {
    "sharing, edges together": ("unshared, together", "shared, together"),
    "sharing, edge by edge": ("unshared, one by one", "shared, one by one"),
    "edges together, shared": ("shared, one by one", "shared, together"),
    "edges together, unshared": ("unshared, one by one", "unshared, together"),
}
OURS, PLAIN = "shared, together", "unshared, one by one"
STEP_RATIOS: Final = {
    "alpha alone": ("alpha and everything", "alpha"),
    "edges together": ("both, one by one", "both"),
    "all together": ("both, plain", "both"),
}


def made(form: str, options: argparse.Namespace) -> Supernet:
    torch.manual_seed(0)
    network = with_tower(parse_network(options.network))
    tower = CellTowersSpec(width=(options.width,))
    network = replace(network, head=replace(network.head, tower=tower))  # type: ignore[call-arg]
    settings = replace(FORMS[form], operations=SETS[options.operations])
    supernet = build_supernet(network, CLASSES, settings, generator=torch.Generator().manual_seed(0))
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    supernet.detector.to(options.device).to(memory_format=layout).train()
    return supernet


def levels(supernet: Supernet, options: argparse.Namespace) -> list[Tensor]:
    size, width = options.size.padded(), supernet.detector.get_submodule("head.towers").width
    generator = torch.Generator().manual_seed(0)
    shapes = [(options.batch, width, math.ceil(size.height / s), math.ceil(size.width / s)) for s in STRIDES]  # type: ignore[arg-type]
    maps = [torch.randn(shape, generator=generator).to(options.device) for shape in shapes]
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    return [one.to(memory_format=layout).requires_grad_() for one in maps]


def module_steps(supernet: Supernet, maps: list[Tensor]) -> tuple[Step, Step]:
    """What a step of the weights asks of the searched module, in which alpha needs no gradient: the forward pass alone,
    and both."""
    towers = supernet.detector.get_submodule("head.towers")
    supernet.architecture.requires_grad_(False)

    def forward() -> Tensor:
        return torch.stack([part.float().mean() for level in maps for part in towers(level)]).sum()

    def both() -> None:
        forward().backward()  # type: ignore[no-untyped-call]
        towers.zero_grad(set_to_none=True)
        for level in maps:
            level.grad = None

    return forward, both


def kept_bytes(forward: Step, network: nn.Module, clock: Clock) -> int:
    """Bytes of all tensors, parameters left out, that one forward pass keeps for the backward one, each memory once."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    result: list[object] = []  # which holds the graph until all is counted
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        clock.time(lambda: result.append(forward()))
    return sum(kept.values())


def search_of(supernet: Supernet) -> Bilevel:
    alphas = {id(alpha) for alpha in supernet.architecture.parameters()}
    learning = [p for p in supernet.detector.parameters() if id(p) not in alphas]
    # Rates at which nothing changes: a step costs what it costs at any.
    weights = torch.optim.SGD(learning, lr=1e-9, momentum=0.9, fused=True)
    alpha = alpha_optimiser(supernet.architecture)
    alpha.param_groups[0]["lr"] = 1e-9
    return Bilevel(supernet.detector, supernet.architecture, weights, alpha)


def plain_alpha_step(search: Bilevel, given: Any) -> None:
    """A step of alpha with gradients to everything, of which all others are thrown away."""
    losses = search.network(*given)
    torch.stack(list(losses.values())).sum().backward()
    nn.utils.clip_grad_norm_(search.architecture.parameters(), search.clip_norm)
    search.alpha.step()
    search.network.zero_grad(set_to_none=True)


def compare_modules(options: argparse.Namespace, clock: Clock) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    steps: dict[str, Step] = {}
    kept: dict[str, int] = {}
    for form in FORMS:
        supernet = made(form, options)
        forward, steps[form] = module_steps(supernet, levels(supernet, options))
        kept[form] = kept_bytes(forward, supernet.detector, clock)
    times = race(steps, clock, options.seconds)
    rows = [
        {"what": f"module: {form}", "ms": statistics.median(times[form]) * 1e3, "kept_mb": kept[form] / 1e6}
        for form in FORMS
    ]
    ratios = ratios_of(times, MODULE_RATIOS)
    for row in ratios:
        slow, fast = MODULE_RATIOS[row["ratio"]]
        row["kept"] = kept[fast] / kept[slow]
    return rows, ratios


def compare_steps(options: argparse.Namespace, clock: Clock) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    images, targets = batch(options.batch, options.size, options.device)
    given = images, replace(targets, masks=None)
    searches = {form: search_of(made(form, options)) for form in (OURS, "shared, one by one", PLAIN)}

    def both(search: Bilevel) -> None:
        search.architecture_step(given)
        search.weights_step(given)

    def plain(search: Bilevel) -> None:
        plain_alpha_step(search, given)
        search.weights_step(given)

    steps: dict[str, Step] = {
        "alpha": lambda: searches[OURS].architecture_step(given),
        "alpha and everything": lambda: plain_alpha_step(searches[OURS], given),
        "weights": lambda: searches[OURS].weights_step(given),
        "both": lambda: both(searches[OURS]),
        "both, one by one": lambda: both(searches["shared, one by one"]),
        "both, plain": lambda: plain(searches[PLAIN]),
    }
    rows = []
    times = race(steps, clock, options.seconds)
    for name, step in steps.items():
        row = {"what": f"step: {name}", "ms": statistics.median(times[name]) * 1e3}
        if name.startswith("both"):
            row["search_hours"] = row["ms"] * ITERATIONS / 3.6e6
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            clock.time(step)
            row["peak_mb"] = (torch.cuda.max_memory_allocated() - before) / 1e6
        rows.append(row)
    return rows, ratios_of(times, STEP_RATIOS)


def ratios_of(times: dict[str, list[float]], pairs: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    found = []
    for name, (slow, fast) in pairs.items():
        ratios = [a / b for a, b in zip(times[slow], times[fast], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found.append(
            {"ratio": name, "of": f"{slow} / {fast}", "median": middle, "low": low, "high": high, "rounds": len(ratios)}
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18/fpn/fcos", help="an fcos or retinanet detector")
    parser.add_argument("--size", type=InputSize.parse, default=InputSize(160, 128), help="WxH in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--width", type=int, default=96, help="channels of the edges (c')")
    parser.add_argument("--operations", choices=[name for name in SETS if name != "darts"], default="full")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="autocast")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True, help="as in training")
    parser.add_argument("--seconds", type=float, default=60, help="for the modules, and again for the steps")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/supernet.json"))
    options = parser.parse_args()
    record: dict[str, Any] = {
        **begun(options),
        "network": format_network(with_tower(parse_network(options.network))),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        **{
            name: str(getattr(options, name))
            for name in ("size", "batch", "width", "operations", "precision", "channels_last")
        },
        "rows": [],
        "ratios": [],
    }
    print(f"{record['device']}, {record['network']}, {options.size}, batch {options.batch}, c' {options.width}, "
          f"{options.precision}, {record['threads']} threads, torch {torch.__version__}")  # fmt: skip
    clock = Clock(options.device, options.precision)
    for compare in (compare_modules, compare_steps):
        rows, ratios = compare(options, clock)
        for row in rows:
            extra = "".join(f"  {name} {value:,.2f}" for name, value in row.items() if name not in ("what", "ms"))
            print(f"{row['what']:<32}{row['ms']:>12.2f} ms{extra}", flush=True)
        for row in ratios:
            kept = f", kept for backward x {row['kept']:.3f}" if "kept" in row else ""
            print(f"{row['ratio']:<28}{row['median']:>8.3f} ({row['low']:.3f} to {row['high']:.3f}), "
                  f"{row['rounds']} rounds{kept}   {row['of']}", flush=True)  # fmt: skip
        record["rows"] += rows
        record["ratios"] += ratios
        options.out.write_text(json.dumps(record, indent=1) + "\n")  # a run that is cut off keeps what it has


if __name__ == "__main__":
    main()
