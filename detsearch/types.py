"""The values that cross borders between packages. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeAlias

from detsearch.errors import SpecError

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


@dataclass(frozen=True, slots=True, order=True)
class InputSize:
    """The box, in pixels, that an image is fitted into before it enters a network; text form ``512x384`` (W x H)."""

    width: int
    height: int

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if not 1 <= value <= 16384:
                raise SpecError(f"input {name}", "1 to 16384 pixels", str(value))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``WxH``; SpecError on anything else."""
        match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text.strip())
        if match is None:
            raise SpecError("input size", "WxH in pixels such as 512x512", repr(text))
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of an image scaled, ratio kept, so that its long side is at most this box's long side and
        its short side at most this box's short side: a portrait image turns the box."""
        long, short = max(self.width, self.height), min(self.width, self.height)
        scale = min(long / max(width, height), short / min(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def padded(self, divisor: int = 32) -> InputSize:
        """The size of the tensor: both sides rounded up to a multiple of `divisor` (800x600 becomes 800x608)."""
        return InputSize(math.ceil(self.width / divisor) * divisor, math.ceil(self.height / divisor) * divisor)


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """Feature maps between two modules, finest first. Level l is named P{l} and normally has stride 2**l."""

    levels: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.levels) == len(self.channels) == len(self.strides) > 0
        assert list(self.levels) == sorted(set(self.levels)), "levels ascend"

    @classmethod
    def of(cls, levels: tuple[int, ...], channels: tuple[int, ...]) -> Self:
        """Maps whose strides follow from their levels."""
        return cls(levels, channels, tuple(2**level for level in levels))

    def last(self) -> Self:
        """The coarsest map alone."""
        return type(self)(self.levels[-1:], self.channels[-1:], self.strides[-1:])

    def __len__(self) -> int:
        return len(self.levels)


@dataclass(frozen=True, slots=True, order=True)
class Fidelity:
    """How thoroughly a candidate was trained. Values of different fidelity are never compared."""

    epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCost:
    """Exact cost of one part at one input size, batch 1.

    `params` counts trainable and frozen parameters (no buffers); `macs` multiply-accumulates of convolutions, linear
    layers and matrix products; `memory_access` the elements that these layers read and write, plus their weights.
    """

    params: int
    macs: int
    memory_access: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProtocol:
    """How a latency was measured: everything needed to measure it again."""

    device: str  # "cpu", "cuda:0"
    device_name: str  # as the vendor calls it
    runtime: str  # "eager", "compiled", ...
    precision: str  # "float32", "bfloat16"
    threads: int  # intra-op threads; 0 where it does not apply
    batch: int
    input: str  # WxH of the tensor
    warmup: int
    runs: int
    includes: str
    excludes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds per batch: median and interquartile range over the protocol's runs.

    `steady` is False where the clock drifted or the spread was too wide for the median to be trusted.
    """

    median_ms: float
    iqr_ms: float
    steady: bool
    protocol: LatencyProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class CostMetrics:
    """What a detector costs, known without training it.

    `regions` says how many an image a two-stage detector was counted with: `proposals`, and `masks` that are drawn.
    """

    params: int
    macs: int
    memory_access: int
    parts: Mapping[str, PartCost] = field(default_factory=dict)  # backbone, neck, proposals, head
    regions: Mapping[str, int] = field(default_factory=dict)
    latency: Latency | None = None

    def values(self) -> dict[str, float]:
        """The comparable figures by objective name."""
        found: dict[str, float] = {"params": self.params, "macs": self.macs, "memory_access": self.memory_access}
        if (backbone := self.parts.get("backbone")) is not None:
            found["backbone_macs"] = backbone.macs
        if self.latency is not None:
            found["latency_ms"] = self.latency.median_ms
        return found

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        latency = raw.get("latency")
        return cls(
            params=raw["params"],
            macs=raw["macs"],
            memory_access=raw["memory_access"],
            parts={name: PartCost(**part) for name, part in raw.get("parts", {}).items()},
            regions=raw.get("regions", {}),
            latency=None
            if latency is None
            else Latency(**{**latency, "protocol": LatencyProtocol(**latency["protocol"])}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What an evaluation found: figures by name (``ap``, ``ap50``, ``train_seconds``, ...), at one fidelity.

    `provenance` says how: split, seed, device, versions.
    """

    values: Mapping[str, float]
    fidelity: Fidelity
    provenance: Mapping[str, JSON] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        return cls(values=raw["values"], fidelity=Fidelity(**raw["fidelity"]), provenance=raw.get("provenance", {}))
