"""The recipe of a backbone's training as a classifier."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from detsearch.arch.presets import resolve_backbone
from detsearch.arch.spec import ClassifierSpec, Norm
from detsearch.data.crops import CropAugmentation, usual_resize
from detsearch.runs.settings import check_shared
from detsearch.training.settings import ClassifierSettings
from detsearch.types import InputSize
from detsearch.yamlfile import Section


class FolderSettings(Section):
    """Images of a classifier: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg, as ImageNet is laid out."""

    root: str = Field(description="Folder that has a folder for each split, and in it one for each class.")
    train: str = Field("train", description="Folder of the images that are trained on.")
    val: str = Field("val", description="Folder of the images that the classifier is scored on.")


class ClassifierEvaluation(Section):
    """How a classifier is scored: top-1 and top-5 accuracy of the middle of every image."""

    batch: int = Field(64, ge=1, le=4096, description="Images per forward pass.")
    resize: int | None = Field(
        None,
        ge=32,
        le=8192,
        description="Short side, in pixels, at which images are answered, of which the middle is seen; null: 256 for "
        "size 224, in the same ratio for others.",
    )


class PretrainRecipe(Section):
    """A backbone, trained as a classifier of images."""

    backbone: str = Field(
        description="Block code, name such as resnet18, or a detector's preset, code or file, whose backbone is meant."
    )
    norm: Norm = Field("bn", description="Norm of the backbone, whatever the detector's is.")
    size: int = Field(224, ge=32, le=4096, description="Side of the square of pixels that the network sees.")
    data: FolderSettings
    augmentation: CropAugmentation = Field(
        default_factory=CropAugmentation, description="Random crops and changes of training images."
    )
    training: ClassifierSettings = Field(default_factory=ClassifierSettings, description="How it is trained.")
    evaluation: ClassifierEvaluation = Field(default_factory=ClassifierEvaluation, description="How it is scored.")
    weights: str = Field("none", description="What the backbone begins with: none, imagenet or a file of weights.")
    device: str = Field("auto", description="cpu, cuda:0, ...; auto: the first GPU if there is one.")
    devices: int = Field(
        1,
        ge=1,
        le=64,
        description="Devices that share each batch: GPUs from `device` on, or processes on a CPU. The result is that "
        "of one device, but for batch norms (see training.sync_bn).",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Of everything random in the run.")

    @property
    def resize(self) -> int:
        """The short side at which images are answered."""
        return self.evaluation.resize or usual_resize(self.size)

    @model_validator(mode="after")
    def _batch_is_shared(self) -> Self:
        check_shared(self.training, self.devices)
        return self

    @model_validator(mode="after")
    def _middle_fits(self) -> Self:
        if self.resize < self.size:
            raise ValueError(f"evaluation.resize: at least size ({self.size}), not {self.resize}")
        return self

    def spec(self) -> ClassifierSpec:
        """What is trained; SpecError where there is no such backbone or detector."""
        backbone, _, _ = resolve_backbone(self.backbone)
        return ClassifierSpec(backbone=backbone, norm=self.norm, input=InputSize(self.size, self.size))
