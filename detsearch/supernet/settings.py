"""How cells are searched, as one checked value."""

from __future__ import annotations

from typing import Final, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from detsearch.arch.cells import OPERATIONS, SETS
from detsearch.errors import SpecError
from detsearch.supernet.bilevel import Order
from detsearch.supernet.detector import Sharing, SupernetSettings
from detsearch.training.settings import Plain, StepSettings
from detsearch.types import InputSize

OperationSet = Literal["full", "rf5", "rf7", "std", "sep", "darts"]
Method = Literal["search", "random", "none"]
assert set(get_args(OperationSet)) == set(SETS)
RATES: Final = ("lr", "alpha_lr")
"""Settings that may be lowered on the way: a search that broke loses nothing."""


class CellSearchSettings(StepSettings):
    """A differentiable search of cells. Defaults are FAD's, for heads that detect (Zhong et al., ECCV 2020, sec. 4.1;
    for `alpha` DARTS's): one iteration is a step of the architecture on a batch of one half of the training images, and
    a step of the weights on a batch of the other half."""

    method: Method = Field(
        "search", description="search; or, to compare with, random: cells that are drawn; none: the head as it is."
    )
    operations: OperationSet = Field(
        "full",
        description="What an edge chooses among: full, the 12 transformations; rf5, rf7: those of a receptive field up "
        "to 5 or 7; std, sep: standard or depthwise separable ones; darts: the operations of DARTS.",
    )
    sharing: Sharing = Field(
        "decoupled",
        description="decoupled: transformations share stems, and those that others build on have a function of their "
        "own; direct: without that; none: every operation has its own layers (darts needs it).",
    )
    gradient: Order = Field(
        "first",
        description="Of the architecture: first, at the current weights; second, at those after one more step (DARTS); "
        "exact: the same by differentiating twice.",
    )
    cells: int = Field(1, ge=1, le=8, description="Cells in a row in each group, while searching.")
    input: str | None = Field(
        None, description="Input size while searching, WxH; null: that of the detector, which is trained at its own."
    )
    iterations: int = Field(12_500, ge=1, le=10_000_000, description="Most iterations.")
    check: int = Field(2_500, ge=1, description="Iterations between two looks at the cells that would be derived.")
    stop: bool = Field(True, description="End as soon as two looks in a row see the same cells.")
    save_iterations: int = Field(250, ge=1, description="Iterations between two saves of the state.")
    batch: int = Field(4, ge=1, le=65_536, description="Images per step.")
    lr: float = Field(0.004, gt=0, le=100, description="Learning rate of the weights, for `base_batch` images.")
    base_batch: int = Field(4, ge=1, le=65_536, description="Images per step that `lr` is meant for.")
    warmup_steps: int = Field(0, ge=0, description="Iterations of linear warm-up; at most a fifth of all.")
    drops: list[float] = Field([0.8], description="Shares of the iterations from each of which on `lr` is a tenth.")
    clip_norm: float | None = Field(20.0, gt=0, description="Greatest L2 norm of a gradient; null: no clipping.")
    alpha_lr: float = Field(3e-4, gt=0, le=10, description="Learning rate of the architecture (Adam).")
    alpha_decay: float = Field(1e-3, ge=0, le=1, description="Weight decay of the architecture.")
    cost: Literal["macs", "latency"] = Field(
        "macs", description="What an operation costs: multiply-accumulates, or milliseconds measured on the device."
    )
    cost_weight: float = Field(
        0.0,
        ge=0,
        le=1_000_000,
        description="How much of the loss is the cost that the cells would have, as a share of the dearest cells'; 0: "
        "none.",
    )

    @model_validator(mode="after")
    def _operations_can_share(self) -> Self:
        unshared = [token for token in SETS[self.operations] if OPERATIONS[token].stream is None]
        if self.sharing != "none" and unshared and self.method == "search":
            raise ValueError(f"sharing: none, beside operations {self.operations}, which share no stem")
        return self

    @field_validator("input")
    @classmethod
    def _size(cls, text: str | None) -> str | None:
        try:
            return None if text is None else str(InputSize.parse(text))
        except SpecError as error:
            raise ValueError(error.expected) from None

    def deciding(self) -> dict[str, Plain]:
        """The settings that say which search this is: all but cadences, loader processes and the learning rates."""
        return {name: value for name, value in super().deciding().items() if name not in RATES}

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates by name."""
        return {name: getattr(self, name) for name in RATES}

    @property
    def supernet(self) -> SupernetSettings:
        """What the network is made of."""
        return SupernetSettings(operations=SETS[self.operations], sharing=self.sharing, repeats=self.cells)
