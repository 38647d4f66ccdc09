"""Trained weights on disk: tensors and plain values, loaded with nothing that could run code.

A file says which network it belongs to (its text), for which classes and input size it was trained, how, and how far.
While a training runs, the file also holds what it needs to go on (`state`); a finished one has the weights only.
Writing is atomic: a kill, or a full disk, leaves the previous file as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import CLASSIFIER, parse_network
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import CheckpointError, SpecError
from detsearch.training.archive import is_archive, read_archive, write_archive
from detsearch.training.settings import Plain
from detsearch.types import InputSize

if TYPE_CHECKING:
    from detsearch.nn.detector import Detector

FORMAT: Final = "detsearch checkpoint"
VERSION: Final = 1
BACKBONE: Final = "backbone.pt"
"""The file of weights that a classifier's training leaves beside its checkpoint."""


class CheckpointMeta(BaseModel):
    """What the weights belong to: `network` as canonical text, `input` WxH in pixels, `classes` in label order; how
    they were trained: the settings that matter and the seed; how far: finished epochs, optimiser steps, seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str = Field(min_length=1)
    input: str
    classes: tuple[str, ...] = Field(min_length=1)
    settings: dict[str, Plain]
    seed: int = Field(ge=0)
    epoch: int = Field(ge=0)
    step: int = Field(ge=0)
    seconds: float = Field(ge=0)

    def spec(self, size: InputSize | None = None) -> DetectorSpec:
        """What was trained, for its own input size or for `size`; SpecError where that is too small for the network."""
        spec = parse_network(self.network).at(size or InputSize.parse(self.input))
        catalogue().check_input(spec)
        return spec


@dataclass(frozen=True)
class Checkpoint:
    """`weights` are those to detect with (the averaged ones, where an average is kept) by name, on the CPU; `state` is
    what the training loop needs to go on, None if it is finished."""

    meta: CheckpointMeta
    weights: Mapping[str, Tensor]
    state: Mapping[str, Any] | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically. ResourceError if that fails; what was at `path` before is then still there."""
    content = {
        "meta": checkpoint.meta.model_dump(mode="json"),
        "weights": dict(checkpoint.weights),
        "state": None if checkpoint.state is None else dict(checkpoint.state),
    }
    write_archive(path, FORMAT, VERSION, content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check a file, all tensors on the CPU.

    CheckpointError if there is none, or it is damaged, not ours, of another version, or holds anything but tensors and
    plain values.
    """
    where = str(path)
    content = read_archive(path, FORMAT, VERSION)
    try:
        meta = CheckpointMeta.model_validate(content.get("meta"))
    except ValidationError as error:
        raise CheckpointError(where, "a complete description of the network", _first_fault(error)) from error
    weights, state = content.get("weights"), content.get("state")
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise CheckpointError(where, "tensors by name under `weights`", type(weights).__name__)
    if state is not None and not isinstance(state, dict):
        raise CheckpointError(where, "a mapping under `state`", type(state).__name__)
    return Checkpoint(meta, weights, state)


def expect(checkpoint: Checkpoint, path: Path, *, network: str, classes: Sequence[str]) -> None:
    """CheckpointError, naming both, unless the checkpoint belongs to this network and these classes."""
    expect_network(checkpoint, path, network=network)
    meta = checkpoint.meta
    if meta.classes != tuple(classes):
        raise CheckpointError(str(path), f"the classes {', '.join(classes)}", ", ".join(meta.classes))


def expect_network(checkpoint: Checkpoint, path: Path, *, network: str) -> None:
    """CheckpointError, naming both, unless the checkpoint belongs to this network."""
    theirs = checkpoint.meta.network
    if theirs != network:
        hint = f"its backbone's weights are in the {BACKBONE} beside it" if f"/{CLASSIFIER}" in theirs else None
        raise CheckpointError(str(path), f"a checkpoint of {network}", f"one of {theirs}", hint)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy `weights` into `module`; CheckpointError, naming the first that does not fit, and nothing copied."""
    own = module.state_dict()
    for name in own.keys() | weights.keys():
        if name not in weights:
            raise CheckpointError(str(path), f"the weight {name}", "none of that name")
        if name not in own:
            raise CheckpointError(str(path), "only weights of the network", name)
        if own[name].shape != weights[name].shape:
            raise CheckpointError(
                str(path), f"{name} of shape {tuple(own[name].shape)}", str(tuple(weights[name].shape))
            )
    module.load_state_dict(dict(weights))


def is_checkpoint(path: Path) -> bool:
    """Whether a file says of itself that it is one of ours; its tensors are not read."""
    return is_archive(path, FORMAT)


def start_from(detector: Detector, path: Path, *, network: str, classes: Sequence[str]) -> None:
    """Let a training begin with the weights of a checkpoint of the same network; CheckpointError otherwise.

    Where its classes are others, layers whose shape depends on their number keep their fresh weights.
    """
    checkpoint = read_checkpoint(path)
    expect_network(checkpoint, path, network=network)
    weights = dict(checkpoint.weights)
    if checkpoint.meta.classes != tuple(classes):
        own = detector.state_dict()
        weights |= {k: own[k] for k, v in checkpoint.weights.items() if k in own and own[k].shape != v.shape}
    load_weights(detector, weights, path)


def load_detector(path: Path) -> tuple[Detector, CheckpointMeta]:
    """The detector that a checkpoint holds, built from the network's text, on the CPU in eval mode.

    CheckpointError if the file is not one, its network is unknown to this installation, or its weights do not fit.
    """
    from detsearch.build import build

    checkpoint = read_checkpoint(path)
    meta = checkpoint.meta
    try:
        network = parse_network(meta.network)
    except SpecError as error:
        raise CheckpointError(str(path), "a network that can be built here", meta.network, str(error)) from error
    detector = build(network, len(meta.classes))
    load_weights(detector, checkpoint.weights, path)
    return detector.eval(), meta


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'meta'}: {fault['msg']}"
