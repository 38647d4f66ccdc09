"""Pretrained weights into a backbone: published ones or a local file, strictly."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from detsearch.errors import CheckpointError, ResourceError

State: TypeAlias = "dict[str, Tensor]"
IMAGENET: Final = "imagenet"
NAMED: Final = 3
"""Offending parameters that an error names."""


@runtime_checkable
class Pretrainable(Protocol):
    """What a backbone offers so that published weights fit."""

    def imagenet_state(self) -> State:
        """Weights of a classifier of ImageNet under the backbone's own names; ResourceError where they can't be had."""
        ...

    def adopt(self, state: State) -> State:
        """A file's state under the backbone's own names, without the classifier's head."""
        ...


def load_pretrained(backbone: nn.Module, source: str) -> None:
    """Fill a backbone from `source`: ``imagenet`` or the path of a file.

    Files: safetensors (by suffix; the library must be installed) or what `torch.save` writes, weights only; either the
    backbone's own state or, for ours, that of the whole classifier of torchvision or timm. CheckpointError names the
    first parameters that do not fit; ResourceError where weights are not within reach.
    """
    if not isinstance(backbone, Pretrainable):
        raise ResourceError(
            "pretrained weights", "a backbone that knows its published weights", type(backbone).__name__
        )
    state = backbone.imagenet_state() if source == IMAGENET else backbone.adopt(read_state(Path(source)))
    load_strictly(backbone, state, source)


def load_strictly(module: nn.Module, state: State, where: str) -> None:
    """`load_state_dict` that says in one line what does not fit, before anything is changed; CheckpointError."""
    own = module.state_dict()
    # Counters of batches are absent from weights saved with frozen norms, and mean nothing there.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in own]
    shapes = [
        f"{k} of shape {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    faults = [*(f"without {k}" for k in missing), *(f"with {k}" for k in unknown), *shapes]
    if faults:
        more = f" and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise CheckpointError(
            where,
            f"the {len(own)} tensors of this {type(module).__name__}",
            f"a state {', '.join(faults[:NAMED])}{more}",
            "take weights of the same architecture and norm",
        )
    module.load_state_dict(state, strict=False)


def read_state(path: Path) -> State:
    """Tensors by name from a file; CheckpointError if it is anything else. Never runs what a file contains."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no plain file" if path.exists() else "no such file"
        raise CheckpointError(str(path), "a file of weights", found)
    try:
        raw = _read(path)
    except ResourceError:
        raise
    except OSError as error:
        raise CheckpointError(str(path), "a readable file of weights", error.strerror or str(error)) from error
    except Exception as error:  # from damaged bytes the unpickler raises anything: IndexError, TypeError, ...
        # Not its words: PyTorch's advise to load the file without the protection from hostile ones.
        expected = "a file of weights (torch, or .safetensors)"
        raise CheckpointError(str(path), expected, "another or a truncated file") from error
    if (
        not isinstance(raw, dict)
        or not raw
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in raw.items())
    ):
        raise CheckpointError(str(path), "a mapping of names to tensors", type(raw).__name__)
    return dict(raw)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise ResourceError(str(path), "the library safetensors", "none", "pip install safetensors") from None
        return load_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles that are refused anyway
        return torch.load(path, map_location="cpu", weights_only=True)
