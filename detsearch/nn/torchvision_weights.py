"""torchvision's detectors on a ResNet-50 with a pyramid: which of our networks they are, and their states to and from
ours.

Labels: torchvision counts them from 1 and keeps 0 for the background; its published weights use COCO's category ids, so
that there are 91, of which 0 and the ids that COCO left out never answer. In RetinaNet and FCOS 0 is a class like the
others, and our label k is theirs. In detectors of two stages our label k is their label k + 1; the background's box
deltas and masks, which are never used, are dropped, and come back as zeros. `keep_labels` leaves out what never
answers.

torchvision also publishes Faster R-CNN on MobileNetV3: its five anchors a place, the same on three maps, are those of
none of our networks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from detsearch.errors import CheckpointError
from detsearch.nn.backbones.weights import State

BN_EPS: Final = 1e-5
"""Of our batch norms, and of torchvision's where it does not say otherwise."""


@dataclass(frozen=True, slots=True)
class Model:
    """One of torchvision's detectors: our `network`, and the eps of its norms once they hold published weights, which
    are frozen."""

    network: str
    frozen_eps: float = BN_EPS


_PYRAMID: Final = "levels=2-3-4-5-6,extra_from=pool"
_V2: Final = f"resnet50/fpn({_PYRAMID},norm=bn)/rpn(depth=2)/2fc(fcs=1,convs=4,norm=bn"
MODELS: Final[Mapping[str, Model]] = {
    "fasterrcnn_resnet50_fpn": Model(f"resnet50/fpn({_PYRAMID})/rpn/2fc", frozen_eps=0.0),
    "fasterrcnn_resnet50_fpn_v2": Model(f"{_V2})"),
    "retinanet_resnet50_fpn": Model("resnet50/fpn/retinanet", frozen_eps=0.0),
    "retinanet_resnet50_fpn_v2": Model("resnet50/fpn(extra_from=c5)/retinanet(norm=gn,loss=giou)"),
    "fcos_resnet50_fpn": Model("resnet50/fpn/fcos"),
    "maskrcnn_resnet50_fpn": Model(f"resnet50/fpn({_PYRAMID})/rpn/2fc(mask=mask)", frozen_eps=0.0),
    "maskrcnn_resnet50_fpn_v2": Model(f"{_V2},mask=mask(norm=bn))"),
}
"""By torchvision's names."""


@dataclass(frozen=True, slots=True)
class _Names:
    """`ours` by torchvision's prefix of a tensor's name; `mark` is one of these that no family of networks further down
    in `FAMILIES` has."""

    mark: str
    ours: Mapping[str, str]

    def mark_of(self, state: State, *, theirs: bool) -> bool:
        mark = self.mark if theirs else self.ours[self.mark]
        return any(key.startswith(mark) for key in state)


def _backbone(finest: int) -> dict[str, str]:
    """Below the heads, with a pyramid whose finest level is P`finest`."""
    return {
        "backbone.body.conv1.": "backbone.stem.conv1.",
        "backbone.body.bn1.": "backbone.stem.bn1.",
        **{f"backbone.body.layer{i}.": f"backbone.layer{i}." for i in range(1, 5)},
        **{f"backbone.fpn.inner_blocks.{i}.": f"neck.lateral.{i + finest}." for i in range(6 - finest)},
        **{f"backbone.fpn.layer_blocks.{i}.": f"neck.output.{i + finest}." for i in range(6 - finest)},
        **{f"backbone.fpn.extra_blocks.p{i}.": f"neck.extra.{i}.0." for i in (6, 7)},
    }


_TOWERS: Final = (
    ("head.classification_head.", "head.towers.classes."),
    ("head.regression_head.", "head.towers.boxes."),
)
_RETINANET: Final = {
    **_backbone(finest=3),
    **{f"{theirs}conv.{i}.": f"{ours}{i}." for theirs, ours in _TOWERS for i in range(4)},
    "head.classification_head.cls_logits.": "head.class_logits.",
    "head.regression_head.bbox_reg.": "head.box_deltas.",
}
_FCOS: Final = {
    **_backbone(finest=3),
    # One list of convolution, norm and activation by turns.
    **{
        f"{theirs}conv.{3 * i + part}.": f"{ours}{i}.{part}."
        for theirs, ours in _TOWERS
        for i in range(4)
        for part in (0, 1)
    },
    "head.classification_head.cls_logits.": "head.class_logits.",
    "head.regression_head.bbox_reg.": "head.box_sides.",
    "head.regression_head.bbox_ctrness.": "head.centreness.",
}
_RCNN: Final = {
    **_backbone(finest=2),
    **{f"rpn.head.conv.{i}.": f"proposals.tower.{i}." for i in range(2)},
    "rpn.head.cls_logits.": "proposals.objectness.",
    "rpn.head.bbox_pred.": "proposals.box_deltas.",
    "roi_heads.box_predictor.cls_score.": "head.predictor.class_logits.",
    "roi_heads.box_predictor.bbox_pred.": "head.predictor.box_deltas.",
    **{f"roi_heads.mask_head.{i}.": f"head.mask.convs.{i}." for i in range(4)},
    "roi_heads.mask_predictor.conv5_mask.": "head.mask.enlarge.",
    "roi_heads.mask_predictor.mask_fcn_logits.": "head.mask.class_logits.",
}
_RCNN_V1: Final = {
    **_RCNN,
    "roi_heads.box_head.fc6.": "head.predictor.layers.fcs.0.",
    "roi_heads.box_head.fc7.": "head.predictor.layers.fcs.1.",
}
_RCNN_V2: Final = {
    **_RCNN,
    **{f"roi_heads.box_head.{i}.": f"head.predictor.layers.convs.{i}." for i in range(4)},
    "roi_heads.box_head.5.": "head.predictor.layers.fcs.0.",
}
FAMILIES: Final = (
    _Names("head.regression_head.bbox_ctrness.", _FCOS),
    _Names("roi_heads.box_head.fc7.", _RCNN_V1),
    _Names("roi_heads.box_head.5.", _RCNN_V2),
    _Names("head.regression_head.bbox_reg.", _RETINANET),
)
BACKGROUND: Final = {"head.predictor.box_deltas.": 4, "head.mask.class_logits.": 1}
"""How many rows, the first, the background has in torchvision's layers and not in ours, by our prefix."""


def from_torchvision(state: State, *, eps: float = BN_EPS) -> State:
    """Our names for a state of one of `MODELS` at any width and number of classes, whichever norm it has.

    `eps` of the norms of the network that the state is of: see `Model.frozen_eps` (torchvision sets it when it loads
    its weights). Another eps than ours goes into the norms' scale, so that the answers are the same. CheckpointError on
    a name that no such network has.
    """
    family = _family(state, theirs=True)
    state = {_wrapped(key): value for key, value in state.items()}
    if family.ours is not _FCOS:  # whose towers never had other names
        state = {_current(key): value for key, value in state.items()}
    renamed = _rename(state, family.ours)
    for prefix, rows in BACKGROUND.items():
        renamed |= {key: value[rows:] for key, value in renamed.items() if key.startswith(prefix) and value.ndim}
    if eps != BN_EPS:
        for key in [key for key in renamed if key.endswith(".running_var")]:
            scale, var = key.replace("running_var", "weight"), renamed[key]
            if scale in renamed and renamed[scale].shape == var.shape:  # whoever loads the state says what is wrong
                renamed[scale] = renamed[scale] * torch.sqrt((var + BN_EPS) / (var + eps))
    return renamed


def to_torchvision(state: State) -> State:
    """The inverse of `from_torchvision` for a state of ours, under the names of current torchvision."""
    family = _family(state, theirs=False)
    for prefix, rows in BACKGROUND.items():
        state = {
            key: torch.cat([value.new_zeros((rows, *value.shape[1:])), value]) if key.startswith(prefix) else value
            for key, value in state.items()
        }
    return _rename(state, {ours: theirs for theirs, ours in family.ours.items()})


def keep_labels(state: State, labels: Sequence[int], count: int, where: str) -> State:
    """A state from `from_torchvision` with only the `labels` of torchvision's `count`, as our labels in that order.

    The softmax of two stages loses the terms of labels that are left out; where these never answer, they are next to
    nothing. CheckpointError, which names the tensor in `where`, if there are not so many labels.
    """
    classes = [label - 1 for label in labels]
    rows = {  # by our prefix: labels or classes, how many rows each has, and which are kept
        "head.class_logits.": (count, 1, list(labels)),  # for every anchor of a place
        "head.predictor.class_logits.": (count, 1, [0, *labels]),
        "head.predictor.box_deltas.": (count - 1, 4, classes),
        "head.mask.class_logits.": (count - 1, 1, classes),
    }
    kept = dict(state)
    for key, value in state.items():
        for prefix, (number, each, chosen) in rows.items():
            if key.startswith(prefix):
                if not value.ndim or len(value) == 0 or len(value) % (number * each):
                    raise CheckpointError(where, f"{count} labels in {key}, as COCO has", f"shape {tuple(value.shape)}")
                kept[key] = value.reshape(-1, number, each, *value.shape[1:])[:, chosen].flatten(0, 2)
    return kept


def _family(state: State, *, theirs: bool) -> _Names:
    """The names of the networks that a state is of; where nothing tells, those that will be refused one by one."""
    return next((names for names in FAMILIES if names.mark_of(state, theirs=theirs)), FAMILIES[-1])


def _rename(state: State, prefixes: Mapping[str, str]) -> State:
    renamed: State = {}
    for key, value in state.items():
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is None:
            raise CheckpointError(
                key, "a parameter of torchvision's RetinaNet, FCOS, Faster R-CNN or Mask R-CNN", "another name"
            )
        renamed[prefixes[prefix] + key.removeprefix(prefix)] = value
    return renamed


def _wrapped(key: str) -> str:
    """Published files are older than torchvision's wrapping of each convolution of a pyramid in a block of its own."""
    return re.sub(r"((?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)


def _current(key: str) -> str:
    """The same of all other convolutions."""
    key = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", key)
    key = re.sub(r"\.mask_fcn(\d)\.", lambda m: f".{int(m[1]) - 1}.0.", key)
    # There, activations stood between a tower's convolutions and were counted too.
    return re.sub(r"_head\.conv\.(\d)\.(weight|bias)$", lambda m: f"_head.conv.{int(m[1]) // 2}.0.{m[2]}", key)
