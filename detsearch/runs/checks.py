"""What would fail every training of a run alike, looked at before time is spent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from detsearch.arch.catalogue import catalogue
from detsearch.arch.spec import NetworkSpec
from detsearch.data.dataset import Dataset, require_same_classes
from detsearch.errors import DataError
from detsearch.nn.backbones.weights import IMAGENET, load_pretrained, read_state
from detsearch.runs.data import load_split
from detsearch.runs.settings import Run


def load_splits(run: Run) -> dict[str, Dataset]:
    """The splits that a recipe names: same classes, and an object in each; DataError otherwise."""
    names = [run.data.train, run.data.val, *([] if run.data.test is None else [run.data.test])]
    splits = {name: load_split(run.data.file, name) for name in names}
    for name, dataset in splits.items():
        require_same_classes(splits[run.data.train], dataset)
        if all(record.crowd.all() for record in dataset.records):
            found = f"none in {len(dataset)} images"
            raise DataError(f"{run.data.file}: split {name}", "objects that are not crowd regions", found)
    return splits


def check_run(run: Run, networks: Iterable[NetworkSpec], device: str) -> None:
    """The precision on the device, and the weights for every backbone that occurs; ResourceError or CheckpointError."""
    run.training.autocast_dtype(torch.device(device))
    if run.weights == "none":
        return
    if run.weights != IMAGENET:
        read_state(Path(run.weights))
    for backbone, norm in dict.fromkeys((network.backbone, network.norm) for network in networks):
        load_pretrained(catalogue().of(backbone).load_builder()(backbone, norm=norm), run.weights)
