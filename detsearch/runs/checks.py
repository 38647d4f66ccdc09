"""What would fail every training of a run alike, looked at before time is spent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import format_network
from detsearch.arch.spec import NetworkSpec
from detsearch.data.dataset import Dataset, require_same_classes
from detsearch.errors import DataError, RecipeError
from detsearch.nn.backbones.weights import IMAGENET, load_pretrained, read_state
from detsearch.nn.freezing import first_stages
from detsearch.runs.data import load_split, open_datafile
from detsearch.runs.settings import Run
from detsearch.search.objective import OF_MASKS, Objective
from detsearch.training.checkpoint import expect_network, is_checkpoint, read_checkpoint


def load_splits(run: Run, *, masks: bool) -> dict[str, Dataset]:
    """The splits that a recipe names: same classes, and an object in each, with its mask if `masks` are wanted;
    DataError otherwise."""
    fields = {"data.train": run.data.train, "data.val": run.data.val, "data.test": run.data.test}
    names = {field: name for field, name in fields.items() if name is not None}
    known = open_datafile(run.data.file).splits
    for field, name in names.items():
        if absent := [part for part in name.split("+") if part not in known]:
            hint = "name one of them" + (", or none: --set data.test=null" if field == "data.test" else "")
            raise DataError(field, f"a split of {run.data.file} ({', '.join(known)})", repr(absent[0]), hint)
    splits = {name: load_split(run.data.file, name, masks) for name in names.values()}
    for name, dataset in splits.items():
        require_same_classes(splits[run.data.train], dataset)
        if all(record.crowd.all() for record in dataset.records):
            found = f"none in {len(dataset)} images"
            raise DataError(f"{run.data.file}: split {name}", "objects that are not crowd regions", found)
        if masks and not dataset.has_masks:
            hint = "choose a detector without a mask branch, or annotate masks (COCO's 'segmentation')"
            raise DataError(f"{run.data.file}: split {name}", "masks, for the mask branch", "boxes only", hint)
    return splits


def check_mask_objectives(objectives: Iterable[Objective], networks: Iterable[NetworkSpec]) -> None:
    """RecipeError for an objective about masks, where a network draws none."""
    of_masks = [objective for objective in objectives if objective.name in OF_MASKS]
    bare = next((network for network in networks if not network.has_masks), None)
    if of_masks and bare is not None:
        where = f"objective {of_masks[0]}"
        raise RecipeError(where, "a mask branch in every detector of the space", format_network(bare))


def check_run(run: Run, networks: Iterable[NetworkSpec], device: str) -> None:
    """The precision on the device, and for every backbone that occurs the frozen stages, which must have come with
    weights, and the weights; ResourceError, RecipeError or CheckpointError."""
    run.training.autocast_dtype(torch.device(device))
    networks = list(networks)
    check_frozen("training.frozen_stages", run.training.frozen_stages, networks, run.weights)
    if run.weights == "none":
        return
    if run.weights != IMAGENET:
        path = Path(run.weights)
        if is_checkpoint(path):
            checkpoint = read_checkpoint(path)
            for network in networks:
                expect_network(checkpoint, path, network=format_network(network))
            return
        read_state(path)
    for network in _of_each_backbone(networks):
        load_pretrained(_backbone(network), run.weights)


def check_frozen(field: str, number: int, networks: Iterable[NetworkSpec], weights: str) -> None:
    """RecipeError, naming the `field`, where a backbone that occurs has no such `number` of first stages, or they would
    have no weights."""
    if number:
        for network in _of_each_backbone(networks):
            first_stages(_backbone(network), number, field)
        require_weights(field, number, weights)


def require_weights(field: str, frozen: int, weights: str) -> None:
    """RecipeError where so many stages would stay what they are by chance."""
    if frozen and weights == "none":
        expected, hint = "0 where training begins with weights: none", "set it to 0, or say which weights"
        raise RecipeError(field, expected, str(frozen), hint)


def _of_each_backbone(networks: Iterable[NetworkSpec]) -> Iterable[NetworkSpec]:
    """One network for each backbone and norm that occur."""
    return {(network.backbone, network.norm): network for network in networks}.values()


def _backbone(network: NetworkSpec) -> nn.Module:
    built: nn.Module = catalogue().of(network.backbone).load_builder()(network.backbone, norm=network.norm)
    return built
