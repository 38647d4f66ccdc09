"""Which device a run uses."""

from __future__ import annotations

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
