"""When, on what and of which commit a benchmark was run, which stand beside every figure."""

from __future__ import annotations

from datetime import UTC, datetime

from detsearch.cost.latency import device_name
from detsearch.runs.revision import commit


def provenance(device: str = "cpu") -> dict[str, str]:
    """Date (UTC), the processor behind `device`, and the commit, if there is a checkout."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"date": now, "device": device_name(device), "commit": commit() or "unknown"}
