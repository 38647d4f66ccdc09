"""When and on what a benchmark was run, which stand beside every figure."""

from __future__ import annotations

from datetime import UTC, datetime

from detsearch.cost.latency import device_name


def provenance(device: str = "cpu") -> dict[str, str]:
    """Date (UTC) and the processor behind `device`."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "device": device_name(device)}
