"""torchvision's RetinaNet-R50-FPN state to and from ours: the network ``resnet50/fpn/retinanet``.

Classes: torchvision's logits have one row per label from 0, and its published weights use COCO's category ids as
labels, so 91 rows of which 0 and the ids that COCO left out never answer. Nothing is dropped or shifted: build the
detector with ``num_classes=91``, and its label k is category id k.
"""

from __future__ import annotations

import re
from typing import Final

import torch

from detsearch.errors import CheckpointError
from detsearch.nn.backbones.weights import State

BN_EPS: Final = 1e-5
"""Of our batch norms, and of torchvision's where it does not say otherwise."""

PREFIXES: Final = {
    "backbone.body.conv1.": "backbone.stem.conv1.",
    "backbone.body.bn1.": "backbone.stem.bn1.",
    **{f"backbone.body.layer{i}.": f"backbone.layer{i}." for i in range(1, 5)},
    **{f"backbone.fpn.inner_blocks.{i}.0.": f"neck.lateral.{i + 3}.0." for i in range(3)},
    **{f"backbone.fpn.layer_blocks.{i}.0.": f"neck.output.{i + 3}.0." for i in range(3)},
    **{f"backbone.fpn.extra_blocks.p{i}.": f"neck.extra.{i}.0." for i in (6, 7)},
    **{f"head.classification_head.conv.{i}.0.": f"head.towers.classes.{i}.0." for i in range(4)},
    **{f"head.regression_head.conv.{i}.0.": f"head.towers.boxes.{i}.0." for i in range(4)},
    "head.classification_head.cls_logits.": "head.class_logits.",
    "head.regression_head.bbox_reg.": "head.box_deltas.",
}


def from_torchvision(state: State, *, eps: float = BN_EPS) -> State:
    """Our names for a state of `torchvision.models.detection.retinanet_resnet50_fpn`, whichever norm it has.

    `eps` of the norms of the network that the state is of: 0 for torchvision's published COCO weights (it sets that
    when it loads them). Another eps than ours goes into the norms' scale, so that the answers are the same.
    CheckpointError on a name that such a network has not.
    """
    renamed = _rename({_current(key): value for key, value in state.items()}, PREFIXES)
    if eps != BN_EPS:
        for key in [key for key in renamed if key.endswith(".running_var")]:
            scale, var = key.replace("running_var", "weight"), renamed[key]
            renamed[scale] = renamed[scale] * torch.sqrt((var + BN_EPS) / (var + eps))
    return renamed


def to_torchvision(state: State) -> State:
    """The inverse of `from_torchvision` for a state of ours, under the names of current torchvision."""
    return _rename(state, {ours: theirs for theirs, ours in PREFIXES.items()})


def _rename(state: State, prefixes: dict[str, str]) -> State:
    renamed: State = {}
    for key, value in state.items():
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is None:
            raise CheckpointError(key, "a parameter of RetinaNet-R50-FPN", "another name")
        renamed[prefixes[prefix] + key.removeprefix(prefix)] = value
    return renamed


def _current(key: str) -> str:
    """Published files are older than torchvision's wrapping of each convolution in a block of its own."""
    key = re.sub(r"((?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)
    # There, activations stood between a tower's convolutions and were counted too.
    return re.sub(r"_head\.conv\.(\d)\.(weight|bias)$", lambda m: f"_head.conv.{int(m[1]) // 2}.0.{m[2]}", key)
