"""Which device a run uses, and which ones when it uses several."""

from __future__ import annotations

import os

import torch

from detsearch.errors import ResourceError


def resolve_device(text: str) -> str:
    """``auto`` becomes the first GPU, or the CPU; anything else must be here. ResourceError otherwise."""
    if text == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise ResourceError("device", "cpu, cuda:0, ... or auto", repr(text)) from None
    if device.type == "cpu":
        return "cpu"
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) < count:
            return f"cuda:{device.index or 0}"
        raise ResourceError("device", f"one of {count} GPUs that PyTorch sees here" if count else "cpu", repr(text))
    raise ResourceError("device", "cpu or cuda:N", repr(text))


def several(device: str, count: int, where: str = "devices") -> tuple[str, ...]:
    """So many devices, of which `device`, as `resolve_device` gives it, is the first: GPUs in the order of their
    numbers, or the CPU as often. ResourceError, which names the field `where`, if there are fewer."""
    if count == 1:
        return (device,)
    if device == "cpu":
        there, what = cpus(), "CPUs that may be used here"
    else:
        there, what = torch.cuda.device_count() - int(device.removeprefix("cuda:")), f"GPUs from {device} on"
    if count > there:
        raise ResourceError(where, f"at most {there}, the {what}", str(count))
    if device == "cpu":
        return (device,) * count
    first = int(device.removeprefix("cuda:"))
    return tuple(f"cuda:{number}" for number in range(first, first + count))


def cpus() -> int:
    """CPUs that this process may use, where the system tells; a container may have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(processes: int = 1) -> int:
    """CPU threads for each of so many processes that work at once: an equal share of `cpus`, and no more than the
    variable OMP_NUM_THREADS allows. On a machine that others use too, more threads than free cores wait for each other
    most of the time."""
    share = max(1, cpus() // processes)
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(share, int(asked)) if asked.isascii() and asked.isdigit() and int(asked) else share
