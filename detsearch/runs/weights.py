"""``detsearch weights``: torchvision's published COCO detectors as checkpoints."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Final

from torchvision.models import get_model_weights

from detsearch.arch.code import format_network, parse_network
from detsearch.build import build
from detsearch.errors import RecipeError, ResourceError
from detsearch.nn.backbones.weights import State, load_strictly, read_state
from detsearch.nn.torchvision_weights import MODELS, from_torchvision, keep_labels
from detsearch.training.checkpoint import Checkpoint, CheckpointMeta, save_checkpoint

INPUT: Final = "1333x800"
"""What torchvision scales images to before these networks see them."""
NO_CLASS: Final = ("__background__", "N/A")
"""Labels that COCO's 80 classes leave unused."""


def import_torchvision(name: str, file: Path | None, out: Path) -> dict[str, Any]:
    """Write a checkpoint of torchvision's detector `name` for COCO's 80 classes, from its published weights or from a
    local file of the same network; what was written is returned.

    RecipeError for an unknown name or an `out` that exists, CheckpointError for a file that does not fit, ResourceError
    where the weights are not within reach or `out` cannot be written.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, 1)
        hint = f"did you mean {near[0]}?" if near else None
        raise RecipeError("weights", f"one of {', '.join(MODELS)}", repr(name), hint)
    if out.suffix != ".pt":
        raise RecipeError("--out", "a name that ends in .pt, by which checkpoints are known", str(out))
    if out.exists():
        raise RecipeError("--out", "a new file", f"{out}, which exists", "choose another name; nothing is overwritten")
    model, published = MODELS[name], get_model_weights(name).DEFAULT
    categories = published.meta["categories"]
    wanted = [label for label, category in enumerate(categories) if category not in NO_CLASS]
    classes = tuple(categories[label] for label in wanted)
    source = str(file) if file is not None else f"weights of {name}"
    state = read_state(file) if file is not None else _download(name, published)
    frozen = not any(key.endswith("num_batches_tracked") for key in state)
    renamed = from_torchvision(state, **({"eps": model.frozen_eps} if frozen else {}))
    network = parse_network(model.network)
    detector = build(network, len(classes))
    load_strictly(detector, keep_labels(renamed, wanted, len(categories), source), source)
    meta = CheckpointMeta(
        network=format_network(network),
        input=INPUT,
        classes=classes,
        settings={},
        seed=0,
        epoch=0,
        step=0,
        seconds=0,
    )
    save_checkpoint(out, Checkpoint(meta, detector.state_dict()))
    return {"checkpoint": str(out), "network": meta.network, "input": INPUT, "classes": list(classes)}


def _download(name: str, published: Any) -> State:
    """The state from torch hub's cache, or over the network, its hash checked."""
    try:
        state: State = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network; RuntimeError: bytes with another hash
        raise ResourceError(
            f"weights of {name}", "them in torch hub's cache, or a network", str(error),
            f"fetch {published.url} elsewhere and give it with --file",
        ) from error  # fmt: skip
    return state
