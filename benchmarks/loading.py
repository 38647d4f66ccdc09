"""What does loading cost a search of a head: processor time of preparing its training images, in one process.

    python benchmarks/loading.py recipes/data/tiny_coco.yaml

Images are read, decoded, fitted to the size and put together to batches, as by a search's own loader, and none is
kept; `benchmarks/supernet.py` leaves all that out. The projection is what the images of 12,500 iterations, a batch of
each half, take; `cells.workers` processes for each half do it beside the steps. Half a minute.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch
from provenance import provenance

from detsearch.data.datafile import load_datafile
from detsearch.data.loader import train_loader
from detsearch.data.transforms import Augmentation
from detsearch.types import InputSize

ITERATIONS: Final = 12_500
HALVES: Final = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data file")
    parser.add_argument("--split", default="train")
    parser.add_argument("--size", type=InputSize.parse, default=InputSize(693, 416), help="WxH in pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20, help="of processor time")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker
    images = load_datafile(options.data).split(options.split)
    loader = train_loader(
        images, options.size, batch=options.batch, seed=0, augmentation=Augmentation(), workers=0, cache_mb=0
    )
    times: list[float] = []
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        began = time.process_time()
        count = sum(len(batch.pixels) for batch, _ in loader)
        if epoch:  # before that, the system reads the files into its memory
            times.append(1e3 * (time.process_time() - began) / count)
        if len(times) > 2 and sum(times) * count > options.seconds * 1e3:
            break
    low, middle, high = statistics.quantiles(times, n=4)
    record: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        **provenance(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "images": len(images),
        "megapixels": statistics.fmean(one.width * one.height / 1e6 for one in images.records),
        "size": str(options.size),
        "epochs": len(times),
        "ms": {"median": middle, "low": low, "high": high},
        "search_minutes": middle * ITERATIONS * HALVES * options.batch / 6e4,
    }
    print(f"{record['device']}, {record['images']} images of {record['megapixels']:.3f} megapixels, {options.size}: "
          f"{middle:.2f} ms an image ({low:.2f} to {high:.2f}), {len(times)} epochs; "
          f"{ITERATIONS:,} iterations: {record['search_minutes']:.1f} minutes of one process")  # fmt: skip
    if options.out is not None:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
