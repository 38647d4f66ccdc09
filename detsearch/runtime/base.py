"""The one interface behind which a detector answers, whatever runs it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from detsearch.nn.structures import Detections, ImageBatch


@runtime_checkable
class Runtime(Protocol):
    """A detector that answers on one device. `tests/contracts/runtime_contract.py` says what must hold."""

    @property
    def name(self) -> str:
        """How the detector is run: ``eager``, ``compiled``, ``onnxruntime``, ..."""
        ...

    @property
    def device(self) -> str:
        """Where it runs and where its detections lie: ``cpu``, ``cuda:0``."""
        ...

    @property
    def precision(self) -> str:
        """Of the network's arithmetic: ``float32``, ``bfloat16``, ``int8``, ..."""
        ...

    @property
    def threads(self) -> int:
        """Threads on which one operation runs; 0 where that has no meaning (GPU)."""
        ...

    def __call__(self, images: ImageBatch) -> Detections:
        """Answer a batch: uint8 pixels (B, 3, H, W) on any device in, detections on `device` out.

        Includes everything from normalisation to NMS. May return before the device has finished: see `synchronize`.
        """
        ...

    def synchronize(self) -> None:
        """Wait until the device has finished all work handed to it."""
        ...

    def nominal_load(self) -> AbstractContextManager[None]:
        """Within this context what follows the network has the fixed load that `nn.nominal` says, whatever boxes
        score."""
        ...
