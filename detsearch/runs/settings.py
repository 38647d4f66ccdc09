"""Recipes: a run, described. One YAML file, checked, every field of which can be set on the command line.

Settings that belong to one package live there (`TrainingSettings`, `Augmentation`); here they are put together.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from detsearch.data.transforms import Augmentation
from detsearch.errors import UserError
from detsearch.search.objective import Limit, Objective, check_objectives
from detsearch.training.settings import TrainingSettings


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSettings(_Section):
    """Which images. Split names may be joined: ``train+val``."""

    file: str = Field(description="Data file (YAML); a relative path is read from the working directory.")
    train: str = Field("train", description="Split that is trained on.")
    val: str = Field("val", description="Split that candidates are compared on.")
    test: str | None = Field(None, description="Split that the chosen ones are reported on; null: none.")
    cache_mb: int = Field(512, ge=0, description="Memory for decoded images, MiB per training process; 0: none kept.")


class LatencySettings(_Section):
    """How long latency is measured: batch 1, image on the device, post-processing at a fixed load."""

    warmup: int = Field(5, ge=1, le=10_000, description="Runs in a group of warm-up runs; they go on until steady.")
    runs: int = Field(20, ge=3, le=100_000, description="Least number of runs whose median is the latency.")
    seconds: float = Field(1.0, gt=0, le=600, description="Least duration of the measurement.")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; null: one per core.")


class EvaluationSettings(_Section):
    """How a trained detector is scored."""

    batch: int = Field(8, ge=1, le=4096, description="Images per forward pass.")


class Run(_Section):
    """What trainings and searches share."""

    data: DataSettings
    augmentation: Augmentation = Field(default_factory=Augmentation, description="Random changes of training images.")
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="How a detector is trained.")
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings, description="How it is scored.")
    weights: str = Field("none", description="Start of the backbone: none, imagenet, or the path of a weights file.")
    latency: LatencySettings = Field(default_factory=LatencySettings, description="How latency is measured.")
    device: str = Field("auto", description="cpu, cuda:0, ...; auto: the first GPU if there is one.")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Of everything random in the run.")


class TrainRecipe(Run):
    """One detector, trained and scored."""

    detector: str = Field(description="Preset, code such as resnet18/fpn/retinanet@512x512, or a file that holds one.")


class SearchSettings(_Section):
    """How candidates are proposed and which are left out before training."""

    strategy: Literal["evolution", "random"] = Field("evolution", description="evolution (SM-NAS), or random search.")
    initial: int = Field(8, ge=1, description="Random members before evolution begins.")
    prune: bool = Field(True, description="Leave out what the partial order shows to be dominated.")
    slack: float = Field(0.0, ge=0, le=1, description="AP by which pruning must be sure, against noise.")


class BudgetSettings(_Section):
    """When the search ends: whichever comes first."""

    trials: int = Field(40, ge=1, description="Candidates that are trained, failed ones included, pruned ones not.")
    hours: float | None = Field(None, gt=0, description="Wall time of one run of the command; null: no limit.")


class ExecutionSettings(_Section):
    """Where trials run."""

    workers: int = Field(1, ge=1, le=1024, description="Trials at once, each in a process of its own.")
    trial_minutes: float | None = Field(None, gt=0, description="Time limit of one trial; null: none.")


class SearchRecipe(Run):
    """A structural search."""

    space: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="Choices for backbone, neck, proposals, head, norm and input; parts not named keep the defaults.",
    )
    objectives: list[str] = Field(
        ["ap:max", "latency_ms:min"], description="What the front is about: NAME:max or :min."
    )
    limits: list[str] = Field([], description="Ceilings checked before training, such as latency_ms<=30.")
    search: SearchSettings = Field(default_factory=SearchSettings, description="How candidates are found.")
    budget: BudgetSettings = Field(default_factory=BudgetSettings, description="When to stop.")
    execution: ExecutionSettings = Field(default_factory=ExecutionSettings, description="Where trials run.")

    @field_validator("objectives")
    @classmethod
    def _objectives(cls, texts: list[str]) -> list[str]:
        try:
            check_objectives([Objective.parse(text) for text in texts])
        except UserError as error:
            raise ValueError(str(error)) from None
        return texts

    @field_validator("limits")
    @classmethod
    def _limits(cls, texts: list[str]) -> list[str]:
        try:
            return [str(Limit.parse(text)) for text in texts]
        except UserError as error:
            raise ValueError(str(error)) from None
