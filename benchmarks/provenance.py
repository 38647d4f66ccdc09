"""When, on what and of which commit a benchmark was run, which stand beside every figure."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import Any

import torch

from detsearch.cost.latency import device_name
from detsearch.runs.revision import commit


def provenance(device: str = "cpu") -> dict[str, str]:
    """Date (UTC), the processor behind `device`, and the commit, if there is a checkout."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": now, "device": device_name(device), "commit": commit() or "unknown"}


def begun(options: argparse.Namespace) -> dict[str, Any]:
    """What a record begins with, once ``options.threads`` of the CPU are set, if given, and the folder of
    ``options.out`` is made."""
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python", *sys.argv])
    return {"command": command, **provenance(options.device), "threads": torch.get_num_threads()}
