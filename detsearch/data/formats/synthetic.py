"""A dataset that needs no files: shapes on noisy grounds, drawn anew from (seed, index) whenever an image is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from detsearch.data.dataset import Dataset, ImageRecord
from detsearch.data.defects import Findings
from detsearch.data.formats import scenes
from detsearch.data.formats.base import DataFile, SplitName
from detsearch.data.formats.builder import RecordBuilder
from detsearch.data.masks import RunLengths

Side = Annotated[int, Field(ge=32, le=4096)]


class SyntheticSplit(BaseModel):
    """How many images, from which seed. Splits of different seeds share no image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(ge=1, le=10_000_000)
    seed: int = Field(ge=0, lt=2**63)


class SyntheticFile(DataFile):
    """The synthetic set: `classes` are names of shapes (all five if left out), sizes in pixels."""

    format: Literal["synthetic"] = "synthetic"
    classes: tuple[str, ...] | None = Field(None, min_length=1)
    width: Side = 256
    height: Side = 192
    objects: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(le=100)]] = Field(
        (1, 8), description="Fewest and most objects that are drawn into an image"
    )
    min_side: int = Field(8, ge=4, description="Side of the smallest objects")
    tinted: bool = Field(False, description="Every class has a colour of its own: an easy set")
    splits: Mapping[SplitName, SyntheticSplit] = Field(min_length=1)

    @field_validator("classes")
    @classmethod
    def _known(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if unknown := [name for name in classes or () if name not in scenes.SHAPES]:
            raise ValueError(f"some of {', '.join(scenes.SHAPES)}, not {unknown[0]!r}")
        return classes

    @field_validator("objects")
    @classmethod
    def _ordered(cls, objects: tuple[int, int]) -> tuple[int, int]:
        if objects[0] > objects[1]:
            raise ValueError("[fewest, most]")
        return objects

    def read(self, split: str, findings: Findings) -> Dataset:
        asked = self.splits[split]
        classes = self.classes or tuple(scenes.SHAPES)
        side = min(self.min_side, self.height // 2)
        style = scenes.Style(classes, self.width, self.height, self.objects, side, self.tinted)
        records = (_record(style, asked.seed, index, findings) for index in range(asked.images))
        return self._dataset(split, classes, records)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SyntheticRecord(ImageRecord):
    """An image that is drawn instead of read; its `path` is only a name."""

    style: scenes.Style
    seed: int
    index: int

    def load(self) -> Tensor:
        scene = scenes.compose(self.style, self.seed, self.index)
        return torch.from_numpy(scenes.paint(scene, self.style, self.seed, self.index)).permute(2, 0, 1)

    def probe(self) -> tuple[int, int]:
        return self.width, self.height

    def turned(self) -> None:
        return None


def _record(style: scenes.Style, seed: int, index: int, findings: Findings) -> SyntheticRecord:
    path = Path("synthetic", str(seed), f"{index:06d}.png")
    builder = RecordBuilder(image_id=index + 1, path=path, width=style.width, height=style.height, findings=findings)
    scene = scenes.compose(style, seed, index)
    masks: Iterable[RunLengths | None] = scene.masks() if findings.masks else repeat(None)
    for (box, label, area), mask in zip(scene.visible(), masks, strict=False):
        builder.add(box, label, where=f"{path}", area=area, segmentation=mask)
    plain = builder.record()
    return SyntheticRecord(
        image_id=plain.image_id,
        path=path,
        width=plain.width,
        height=plain.height,
        boxes=plain.boxes,
        labels=plain.labels,
        area=plain.area,
        crowd=plain.crowd,
        difficult=plain.difficult,
        segmentations=plain.segmentations,
        style=style,
        seed=seed,
        index=index,
    )
