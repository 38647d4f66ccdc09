"""How weights are trained, as checked values."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import torch
from pydantic import Field, WithJsonSchema, field_serializer, field_validator, model_validator

from detsearch.errors import ResourceError
from detsearch.training.schedule import Schedule
from detsearch.yamlfile import Section

Precision = Literal["auto", "float32", "bfloat16"]
Plain: TypeAlias = bool | int | float | str | list[float] | None
"""What a setting may be, as a checkpoint holds it."""


CADENCES: Final = frozenset({"log_steps", "eval_epochs", "checkpoint_epochs", "save_iterations", "workers"})
"""Settings on which no result depends, here and in `supernet.settings`."""


AUTO: Final = "auto"
BatchSize: TypeAlias = Annotated[int, WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": AUTO}]})]
"""As a number; 0 is `AUTO`."""


class StepSettings(Section):
    """Stochastic gradient descent with a linear warm-up and a cosine to the end, or drops: what every training has."""

    batch: int = Field(16, ge=1, le=65_536, description="Images per optimiser step.")
    lr: float = Field(
        0.01, gt=0, le=100, description="Learning rate at the end of the warm-up, for `base_batch` images."
    )
    base_batch: int = Field(
        16, ge=1, le=65_536, description="Images per step that `lr` is meant for; it is scaled linearly to `batch`."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="L2 penalty added to the gradient.")
    decay_norm_bias: bool = Field(True, description="Whether weight decay also acts on norms and biases.")
    warmup_steps: int = Field(
        500, ge=0, description="Optimiser steps of linear warm-up from 0.001 of `lr`; at most a fifth of all steps."
    )
    final_lr: float = Field(
        0.01, ge=0, le=1, description="Share of `lr` at the last step of the cosine; 1 keeps `lr` constant."
    )
    drops: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [],
        description="Shares of all steps from each of which on `lr` is a tenth as much, in place of the cosine, such "
        "as [0.6667, 0.8889]; empty: the cosine.",
    )
    clip_norm: float | None = Field(
        10.0, gt=0, description="Greatest L2 norm of the whole gradient; null: no clipping."
    )
    precision: Precision = Field(
        "auto", description="Arithmetic of the forward pass; auto: bfloat16 on a GPU that computes in it, else float32."
    )
    frozen_stages: int = Field(
        0,
        ge=0,
        le=16,
        description="First stages of the backbone that stay as its weights file has them, norms included: 1 the stem, "
        "2 also the stage that ends in P2, 3 also that of P3, ...; 0: none.",
    )
    frozen_bn: bool = Field(
        False,
        description="Whether the batch norms of the backbone, where it has any, keep statistics, scales and shifts.",
    )
    channels_last: bool = Field(True, description="Keep feature maps channels last in memory.")
    log_steps: int = Field(20, ge=1, description="Optimiser steps between two reports of the loss.")
    workers: int = Field(0, ge=0, le=256, description="Processes that load images; 0: the training process does.")

    @model_validator(mode="after")
    def _drops_ascend(self) -> Self:
        if self.drops != sorted(set(self.drops)):
            raise ValueError(f"drops: ascending shares, not {self.drops}")
        return self

    @property
    def scaled_lr(self) -> float:
        """The learning rate for `batch` images."""
        return self.lr * self.batch / self.base_batch

    def schedule(self, steps: int) -> Schedule:
        """The learning rate over so many steps, as a share of `scaled_lr`."""
        return Schedule.over(steps, warmup=self.warmup_steps, final=self.final_lr, drops=self.drops)

    def deciding(self) -> dict[str, Plain]:
        """The settings on which the result depends: all but cadences and loader processes."""
        return self.model_dump(exclude=set(CADENCES))

    def autocast_dtype(self, device: torch.device) -> torch.dtype | None:
        """The type that the forward pass is cast to on a device, None for float32.

        Raises ResourceError where bfloat16 is demanded and the GPU has none.
        """
        if self.precision == "float32" or (self.precision == "auto" and device.type == "cpu"):
            return None  # a CPU without AMX or AVX512-BF16 emulates bfloat16, slowly
        if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            if self.precision == "auto":
                return None
            raise ResourceError("training.precision", "a GPU with bfloat16", torch.cuda.get_device_name(device))
        return torch.bfloat16


class TrainingSettings(StepSettings):
    """How a detector is trained. Learning rate, momentum, decay and batch default to those of the RetinaNet paper
    (section 4.1), which begins with a pretrained backbone."""

    epochs: int = Field(12, ge=1, le=100_000, description="Passes over the training images.")
    batch: BatchSize = Field(
        16,
        ge=0,
        le=65_536,
        description="Images per optimiser step. auto: as many as fit the device, the greatest power of two up to "
        "`base_batch` and the number of images, found when the training begins and kept when it goes on. Trials that "
        "share a device have equal parts of its memory; candidates of different size may get different batches, and "
        "with them learning rates.",
    )
    sync_bn: bool = Field(
        False,
        description="Whether batch norms share their statistics over the processes of a distributed training (SyncBN); "
        "in a single process they see the whole batch anyway, and nothing changes.",
    )
    accumulate: int = Field(
        1,
        ge=1,
        le=65_536,
        description="Parts into which a batch is split to save memory; divides the batch. The loss is the whole "
        "batch's, but batch normalisation, and losses that are divided by what they count in a batch, see the parts.",
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Decay per step of the moving average of the weights; null: no average."
    )
    eval_epochs: int | None = Field(
        None, ge=1, description="Epochs between two evaluations during the training; null: none before its end."
    )
    checkpoint_epochs: int = Field(1, ge=1, description="Epochs between two checkpoints.")

    @field_validator("batch", mode="before")
    @classmethod
    def _auto_is_0(cls, value: Any) -> Any:
        if value == 0:
            raise ValueError("1 or more, or auto")
        return 0 if value == AUTO else value

    @field_serializer("batch")
    def _0_is_auto(self, value: int) -> int | str:
        return value or AUTO

    @model_validator(mode="after")
    def _batch_splits_evenly(self) -> Self:
        if self.finds_batch and self.accumulate > 1:
            raise ValueError(f"accumulate ({self.accumulate}) splits a batch of known size, and batch is {AUTO}")
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate ({self.accumulate}) must divide batch ({self.batch})")
        return self

    @property
    def finds_batch(self) -> bool:
        """Whether the batch is still to be found (`training.batch`)."""
        return self.batch == 0

    def with_batch(self, images: int) -> Self:
        """The same with a batch of so many images."""
        return self.model_copy(update={"batch": images})

    @property
    def loader_batch(self) -> int:
        """Images per forward pass: what the loader is to deliver at a time."""
        return self.batch // self.accumulate

    def warmup_epochs(self, images: int) -> float:
        """How many of the epochs the warm-up takes with so many training images; where the batch is still to be found,
        as if it were one of `base_batch`."""
        per_epoch = max(1, images // (self.batch or self.base_batch))
        return self.schedule(self.epochs * per_epoch).warmup / per_epoch


class ClassifierSettings(TrainingSettings):
    """How a classifier is trained. Defaults are those with which torchvision's ResNets were, except for the cosine in
    place of drops, and the warm-up."""

    epochs: int = Field(90, ge=1, le=100_000, description="Passes over the training images.")
    batch: BatchSize = Field(
        256,
        ge=0,
        le=65_536,
        description="Images per optimiser step. auto: as many as fit the device, the greatest power of two up to "
        "`base_batch` and the number of images.",
    )
    lr: float = Field(
        0.1, gt=0, le=100, description="Learning rate at the end of the warm-up, for `base_batch` images."
    )
    base_batch: int = Field(256, ge=1, le=65_536, description="Images per step that `lr` is meant for.")
    final_lr: float = Field(0.0, ge=0, le=1, description="Share of `lr` at the last step of the cosine.")
    clip_norm: float | None = Field(
        None, gt=0, description="Greatest L2 norm of the whole gradient; null: no clipping."
    )
    smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each label that is spread over all classes (label smoothing)."
    )
