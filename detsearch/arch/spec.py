"""What a detector is, as frozen values. How they are written as text is `arch.code`'s business, which modules exist is
the catalogue's, what they are made of is `nn`'s."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from detsearch.errors import SpecError
from detsearch.types import InputSize

Norm = Literal["bn", "gn", "gn_ws"]
"""Batch normalisation, group normalisation, or group normalisation with weight standardisation of convolutions."""

Slot = Literal["backbone", "neck", "proposals", "head"]
"""The parts of a detector, in the order in which an image passes through them."""

NORMS: Final[tuple[Norm, ...]] = get_args(Norm)
SLOTS: Final[tuple[Slot, ...]] = get_args(Slot)


@dataclass(frozen=True)
class ModuleSpec:
    """Base of every module's description: a subclass is a frozen dataclass whose fields are values with a text form:
    int, float, bool, str, a Literal, a tuple of ints, a class with ``parse(text)`` and ``str()``, or another module.
    Fields at their default are left out of the text, so a field without one is always written.

    A subclass checks its own fields in `__post_init__` and raises SpecError that names the field.
    """


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A detector without its input size: what a checkpoint belongs to."""

    backbone: ModuleSpec
    neck: ModuleSpec | None = None
    proposals: ModuleSpec | None = None
    head: ModuleSpec
    norm: Norm = "bn"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise SpecError("norm", " or ".join(NORMS), repr(self.norm))

    def part(self, slot: Slot) -> ModuleSpec | None:
        """The module in a slot, None where the detector has none."""
        part: ModuleSpec | None = getattr(self, slot)
        return part

    @property
    def has_masks(self) -> bool:
        """Whether it gives masks: whether its head has a field `mask`, and a module in it."""
        return getattr(self.head, "mask", None) is not None

    def at(self, size: InputSize) -> DetectorSpec:
        return DetectorSpec(network=self, input=size)


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """A whole detector: the network and the size of image that it is trained and run at."""

    network: NetworkSpec
    input: InputSize

    def with_network(self, **changes: object) -> DetectorSpec:
        return replace(self, network=replace(self.network, **changes))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """A backbone as a classifier of images, and the size of image that it is trained and run at."""

    backbone: ModuleSpec
    norm: Norm = "bn"
    input: InputSize
