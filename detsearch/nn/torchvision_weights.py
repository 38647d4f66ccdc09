"""States of torchvision's detectors to and from ours: RetinaNet-R50-FPN, the network ``resnet50/fpn/retinanet``, and
Faster R-CNN-R50-FPN, ``resnet50/fpn(levels=2-3-4-5-6,extra_from=pool)/rpn/2fc`` or, as v2,
``resnet50/fpn(levels=2-3-4-5-6,extra_from=pool,norm=bn)/rpn(depth=2)/2fc(fcs=1,convs=4,norm=bn)``. Mask R-CNN-R50-FPN
has ``mask=mask`` or, as v2, ``mask=mask(norm=bn)`` in the head besides.

Classes: torchvision's RetinaNet has one row of logits per label from 0, and its published weights use COCO's category
ids as labels, so 91 rows of which 0 and the ids that COCO left out never answer. Nothing is dropped or shifted: build
the detector with ``num_classes=91``, and its label k is category id k. Its detectors of two stages have the background
in row 0: build the detector with ``num_classes=90``, and its label k is category id k + 1. The background's box deltas
and masks, which are never used, are dropped, and come back as zeros.
"""

from __future__ import annotations

import re
from typing import Final

import torch

from detsearch.errors import CheckpointError
from detsearch.nn.backbones.weights import State

BN_EPS: Final = 1e-5
"""Of our batch norms, and of torchvision's where it does not say otherwise."""

BODY: Final = {
    "backbone.body.conv1.": "backbone.stem.conv1.",
    "backbone.body.bn1.": "backbone.stem.bn1.",
    **{f"backbone.body.layer{i}.": f"backbone.layer{i}." for i in range(1, 5)},
}
RETINANET: Final = {
    **BODY,
    **{f"backbone.fpn.inner_blocks.{i}.": f"neck.lateral.{i + 3}." for i in range(3)},
    **{f"backbone.fpn.layer_blocks.{i}.": f"neck.output.{i + 3}." for i in range(3)},
    **{f"backbone.fpn.extra_blocks.p{i}.": f"neck.extra.{i}.0." for i in (6, 7)},
    **{f"head.classification_head.conv.{i}.0.": f"head.towers.classes.{i}.0." for i in range(4)},
    **{f"head.regression_head.conv.{i}.0.": f"head.towers.boxes.{i}.0." for i in range(4)},
    "head.classification_head.cls_logits.": "head.class_logits.",
    "head.regression_head.bbox_reg.": "head.box_deltas.",
}
RCNN: Final = {
    **BODY,
    **{f"backbone.fpn.inner_blocks.{i}.": f"neck.lateral.{i + 2}." for i in range(4)},
    **{f"backbone.fpn.layer_blocks.{i}.": f"neck.output.{i + 2}." for i in range(4)},
    **{f"rpn.head.conv.{i}.": f"proposals.tower.{i}." for i in range(2)},
    "rpn.head.cls_logits.": "proposals.objectness.",
    "rpn.head.bbox_pred.": "proposals.box_deltas.",
    "roi_heads.box_predictor.cls_score.": "head.predictor.class_logits.",
    "roi_heads.box_predictor.bbox_pred.": "head.predictor.box_deltas.",
    **{f"roi_heads.mask_head.{i}.": f"head.mask.convs.{i}." for i in range(4)},
    "roi_heads.mask_predictor.conv5_mask.": "head.mask.enlarge.",
    "roi_heads.mask_predictor.mask_fcn_logits.": "head.mask.class_logits.",
}
RCNN_V1: Final = {
    **RCNN,
    "roi_heads.box_head.fc6.": "head.predictor.layers.fcs.0.",
    "roi_heads.box_head.fc7.": "head.predictor.layers.fcs.1.",
}
RCNN_V2: Final = {
    **RCNN,
    **{f"roi_heads.box_head.{i}.": f"head.predictor.layers.convs.{i}." for i in range(4)},
    "roi_heads.box_head.5.": "head.predictor.layers.fcs.0.",
}
BACKGROUND: Final = {"head.predictor.box_deltas.": 4, "head.mask.class_logits.": 1}
"""How many rows, the first, the background has in torchvision's layers and not in ours, by our prefix."""


def from_torchvision(state: State, *, eps: float = BN_EPS) -> State:
    """Our names for a state of `torchvision.models.detection`'s RetinaNet, Faster R-CNN or Mask R-CNN, whichever norm
    it has.

    `eps` of the norms of the network that the state is of: 0 for torchvision's published COCO weights (it sets that
    when it loads them). Another eps than ours goes into the norms' scale, so that the answers are the same.
    CheckpointError on a name that such a network has not.
    """
    state = {_current(key): value for key, value in state.items()}
    renamed = _rename(state, _table(state, "roi_heads.box_head.fc7.", "roi_heads."))
    for prefix, rows in BACKGROUND.items():
        renamed |= {key: value[rows:] for key, value in renamed.items() if key.startswith(prefix)}
    if eps != BN_EPS:
        for key in [key for key in renamed if key.endswith(".running_var")]:
            scale, var = key.replace("running_var", "weight"), renamed[key]
            renamed[scale] = renamed[scale] * torch.sqrt((var + BN_EPS) / (var + eps))
    return renamed


def to_torchvision(state: State) -> State:
    """The inverse of `from_torchvision` for a state of ours, under the names of current torchvision."""
    table = _table(state, "head.predictor.layers.fcs.1.", "head.predictor.")
    for prefix, rows in BACKGROUND.items():
        state = {
            key: torch.cat([value.new_zeros((rows, *value.shape[1:])), value]) if key.startswith(prefix) else value
            for key, value in state.items()
        }
    return _rename(state, {ours: theirs for theirs, ours in table.items()})


def _table(state: State, of_v1: str, of_two_stages: str) -> dict[str, str]:
    """The prefixes of the network that a state is of, told by those that only some networks have."""
    if any(key.startswith(of_v1) for key in state):
        return RCNN_V1
    return RCNN_V2 if any(key.startswith(of_two_stages) for key in state) else RETINANET


def _rename(state: State, prefixes: dict[str, str]) -> State:
    renamed: State = {}
    for key, value in state.items():
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is None:
            raise CheckpointError(
                key, "a parameter of torchvision's RetinaNet, Faster R-CNN or Mask R-CNN", "another name"
            )
        renamed[prefixes[prefix] + key.removeprefix(prefix)] = value
    return renamed


def _current(key: str) -> str:
    """Published files are older than torchvision's wrapping of each convolution in a block of its own."""
    key = re.sub(r"((?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)
    key = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", key)
    key = re.sub(r"\.mask_fcn(\d)\.", lambda m: f".{int(m[1]) - 1}.0.", key)
    # There, activations stood between a tower's convolutions and were counted too.
    return re.sub(r"_head\.conv\.(\d)\.(weight|bias)$", lambda m: f"_head.conv.{int(m[1]) // 2}.0.{m[2]}", key)
