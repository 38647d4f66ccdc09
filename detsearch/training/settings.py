"""How a detector is trained, as one checked value."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from detsearch.errors import ResourceError
from detsearch.yamlfile import Section

Precision = Literal["auto", "float32", "bfloat16"]


class TrainingSettings(Section):
    """Stochastic gradient descent with a linear warm-up and a cosine to the end. Learning rate, momentum, decay and
    batch default to those of the RetinaNet paper (section 4.1), which begins with a pretrained backbone."""

    epochs: int = Field(12, ge=1, le=100_000, description="Passes over the training images.")
    batch: int = Field(16, ge=1, le=65_536, description="Images per optimiser step.")
    accumulate: int = Field(
        1,
        ge=1,
        le=65_536,
        description="Parts into which a batch is split to save memory; divides the batch. The loss is the whole "
        "batch's, but batch normalisation, and losses that are divided by what they count in a batch, see the parts.",
    )
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
    final_lr: float = Field(0.01, ge=0, le=1, description="Share of `lr` at the last step; 1 keeps `lr` constant.")
    clip_norm: float | None = Field(
        10.0, gt=0, description="Greatest L2 norm of the whole gradient; null: no clipping."
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Decay per step of the moving average of the weights; null: no average."
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
    eval_epochs: int | None = Field(
        None, ge=1, description="Epochs between two evaluations during the training; null: none before its end."
    )
    checkpoint_epochs: int = Field(1, ge=1, description="Epochs between two checkpoints.")
    workers: int = Field(0, ge=0, le=256, description="Processes that load images; 0: the training process does.")

    @model_validator(mode="after")
    def _batch_splits_evenly(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate ({self.accumulate}) must divide batch ({self.batch})")
        return self

    @property
    def loader_batch(self) -> int:
        """Images per forward pass: what the loader is to deliver at a time."""
        return self.batch // self.accumulate

    @property
    def scaled_lr(self) -> float:
        """The learning rate for `batch` images."""
        return self.lr * self.batch / self.base_batch

    def deciding(self) -> dict[str, bool | int | float | str | None]:
        """The settings on which the result depends: all but cadences and loader processes."""
        return self.model_dump(exclude={"log_steps", "eval_epochs", "checkpoint_epochs", "workers"})

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
