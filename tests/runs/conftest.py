"""Runs small enough for a test: synthetic images, a detector of a few thousand weights, one epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detsearch.runs.predict import evaluate_checkpoint
from detsearch.runs.settings import Run

TINY = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/retinanet(depth=1)/gn@64x64"
FINDING = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/rpn(anchor_scale=2,keep=100)/2fc(width=16)/gn@64x64"
"""Hardly trained it still gives each image some hundred boxes with scores above the threshold, some of them right: its
figures are above zero, and differ between seeds and splits."""
MASKED = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/rpn/2fc(width=16,mask=mask(width=8,depth=1))/gn@64x64"

DATA: dict[str, Any] = {
    "format": "synthetic",
    "width": 64,
    "height": 64,
    "splits": {
        "train": {"images": 8, "seed": 1},
        "val": {"images": 4, "seed": 2},
        "test": {"images": 4, "seed": 3},
    },
}


def ap_by_split(checkpoint: Path, run: Run) -> dict[str, float]:
    """AP of a checkpoint of `FINDING`, or of another that finds something, on each split; no two are equal."""
    how: dict[str, Any] = {"device": "cpu", "batch": run.evaluation.batch}
    ap = {name: evaluate_checkpoint(checkpoint, run.data.file, name, None, **how)["ap"] for name in DATA["splits"]}
    assert len(set(ap.values())) == len(ap), "the splits can be told apart"
    return ap


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """A synthetic set of 16 small images."""
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(DATA))
    return path


@pytest.fixture
def search_file(tmp_path: Path, data_file: Path) -> Path:
    """The recipe of a search of three short trials in a space of six detectors."""
    recipe: dict[str, Any] = {
        "data": {"file": str(data_file), "test": "test"},
        "space": {
            "backbone": ["basicblock_4_1-2-2-2", "basicblock_4_1-2-2-21", "basicblock_8_1-2-2-2"],
            "neck": ["fpn(levels=4-5,width=8)"],
            "head": ["retinanet(depth=1)"],
            "norm": ["gn"],
            "input": ["64x64", "96x96"],
        },
        "training": {"epochs": 2, "batch": 4, "warmup_steps": 1},
        "search": {"strategy": "evolution", "initial": 2, "prune": False},
        "budget": {"trials": 3},
        "execution": {"workers": 2},
        "latency": {"warmup": 1, "runs": 3, "seconds": 0.01},
    }
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
