"""How fast are parameters and MACs of a block code: closed form against building the network and counting.

    python benchmarks/blockcode.py --codes 1000 --counted 20 --out benchmarks/results/blockcode.json

Takes half a minute on one core. Expected: above 1,000 codes a second in closed form (parameters and MACs of each),
several hundred times the rate of the peer, which is this package's own network built on the meta device and run once
under PyTorch's FLOP counter. Both must agree on every code that the peer counts, or the benchmark ends with an error.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from provenance import provenance
from torch.utils.flop_counter import FlopCounterMode

from detsearch.arch.blockcode import BLOCKS, BlockCode, changes
from detsearch.arch.modules.backbones import CodedResNetSpec
from detsearch.arch.spaces.base import draw_change
from detsearch.nn.backbones.coded import build_coded
from detsearch.types import InputSize

SIZE = InputSize(800, 608)
STARTS = ("64_11-21-21-21", "48_12-11111-211-1112", "56_211-111111111-2111111-11112111")
ROUNDS = 5


def random_codes(count: int, seed: int) -> list[BlockCode]:
    """Codes of all four blocks, 20 changes away from published ones, drawn as a search draws its mutations."""
    rng = np.random.default_rng(seed)
    codes = []
    for number in range(count):
        code = BlockCode.parse(f"{BLOCKS[number % len(BLOCKS)]}_{STARTS[number % len(STARTS)]}")
        for _ in range(20):
            code = draw_change(changes(code), rng) or code
        codes.append(BlockCode.parse(str(code)))  # nothing cached
    return codes


def closed_form(code: BlockCode) -> tuple[int, int]:
    return code.params(), code.macs(SIZE)


def by_building(code: BlockCode) -> tuple[int, int]:
    with torch.device("meta"):
        backbone = build_coded(CodedResNetSpec(code), norm="bn").eval()
        image = torch.empty(1, 3, SIZE.height, SIZE.width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(image)
    return sum(p.numel() for p in backbone.parameters()), counter.get_total_flops() // 2


def rates(cost: Callable[[BlockCode], tuple[int, int]], codes: list[BlockCode]) -> list[float]:
    """Codes a second in each of `ROUNDS` rounds, every round on codes of its own."""
    found = []
    for number in range(ROUNDS):
        mine = codes[number::ROUNDS]
        begin = time.perf_counter()
        for code in mine:
            cost(code)
        found.append(len(mine) / (time.perf_counter() - begin))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, default=1000, help="codes costed in closed form (at least 5)")
    parser.add_argument("--counted", type=int, default=20, help="codes built and counted (at least 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/blockcode.json"))
    options = parser.parse_args()
    if min(options.codes, options.counted) < ROUNDS:
        parser.error(f"at least {ROUNDS} codes each")
    torch.set_num_threads(1)
    codes = random_codes(options.codes, options.seed)
    peer = random_codes(options.counted, options.seed + 1)
    for code in peer:  # warms both up, and holds them equal
        if closed_form(code) != by_building(code):
            raise SystemExit(f"closed form and count differ for {code}")
    fresh = [BlockCode.parse(str(code)) for code in peer]
    measured = {"closed form": rates(closed_form, codes), "built on meta and counted": rates(by_building, fresh)}
    medians = {name: statistics.median(values) for name, values in measured.items()}

    print(f"{'way':<28}{'codes/s, median':>16}{'least':>10}{'most':>10}")
    for name, values in measured.items():
        print(f"{name:<28}{medians[name]:>16.1f}{min(values):>10.1f}{max(values):>10.1f}")
    ratio = medians["closed form"] / medians["built on meta and counted"]
    print(f"closed form is {ratio:.0f} times as fast; depth of the codes {statistics.mean(c.depth for c in codes):.1f}")
    result = {
        "command": f"python benchmarks/blockcode.py --codes {options.codes} --counted {options.counted}"
        f" --seed {options.seed}",
        **provenance(),
        "input": str(SIZE),
        "codes_per_second": measured,
        "median": medians,
        "ratio": ratio,
        "threads": 1,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
