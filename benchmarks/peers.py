"""torchvision's detectors as peers of ours: the same architecture with the same weights, on the same batches. Only the
detector's own code differs: pyramid, proposals, heads, targets, losses, suppression."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from detsearch.nn.backbones.coded import CodedResNet
from detsearch.nn.detector import Detector
from detsearch.nn.structures import Detections, ImageBatch, Targets
from detsearch.nn.torchvision_weights import MODELS, to_torchvision

BODY: Final = "basicblock_16_1-2-2-2(stem=7x7)"
WIDTH: Final = 32
SLIM: Final = {
    "retinanet": f"{BODY}/fpn(width={WIDTH},norm=none)/retinanet(anchor_scale=2)/gn",
    "faster_rcnn": f"{BODY}/fpn(levels=2-3-4-5-6,width={WIDTH},extra_from=pool,norm=none)"
    "/rpn(anchor_scale=3,norm=none)/2fc(width=128)/gn",
}
"""Networks of ours, sized for a CPU, that torchvision's classes can be put together to."""
NETWORKS: Final[Mapping[str, str]] = {**SLIM, **{name: model.network for name, model in MODELS.items()}}
RATIOS: Final = ((0.5, 1.0, 2.0),) * 5


class Peer(nn.Module):
    """A detector of torchvision behind our `Detector`'s methods, with our `normalise` in place of its own resizing."""

    def __init__(self, model: nn.Module, ours: Detector) -> None:
        super().__init__()
        self.model, self.num_classes, self.normalise = model, ours.num_classes, ours.normalise
        self.first_label = 0 if ours.proposals is None else 1
        model.load_state_dict(to_torchvision(ours.state_dict()))

    def forward(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Tensor] | Detections:
        return self.detect(images) if targets is None else self.losses(images, targets)

    def losses(self, images: ImageBatch, targets: Targets) -> dict[str, Tensor]:
        rows = zip(targets.boxes, targets.labels, targets.valid, strict=True)
        lists = [{"boxes": b[valid], "labels": c[valid] + self.first_label} for b, c, valid in rows]
        if targets.masks is not None:
            by_image = targets.masks.split(targets.valid.sum(dim=1).tolist())
            lists = [{**image, "masks": masks} for image, masks in zip(lists, by_image, strict=True)]
        losses: dict[str, Tensor] = self.answer(images, lists)
        return losses

    def detect(self, images: ImageBatch) -> Detections:
        found = self.answer(images, None)
        most = max(len(image["boxes"]) for image in found)

        def padded(name: str) -> Tensor:
            first = found[0][name]
            out = first.new_zeros((len(found), most, *first.shape[1:]))
            for row, image in zip(out, found, strict=True):
                row[: len(image[name])] = image[name]
            return out

        device = found[0]["boxes"].device
        counts = torch.tensor([[len(image["boxes"])] for image in found], device=device)
        valid = torch.arange(most, device=device) < counts
        return Detections(padded("boxes"), padded("scores"), padded("labels") - self.first_label * valid.long(), valid)

    def answer(self, images: ImageBatch, targets: Any) -> Any:
        """What torchvision's detector itself returns."""
        images = self.normalise(images)
        self.model.transform = _Handed(images)
        return self.model(list(images.pixels), targets)


class _Handed(nn.Module):
    """In place of torchvision's resizing: hands on the batch that we made."""

    def __init__(self, images: ImageBatch) -> None:
        super().__init__()
        self.images = images

    def forward(self, _: Any, targets: Any) -> Any:
        return ImageList(self.images.pixels, [tuple(size) for size in self.images.sizes.tolist()]), targets

    def postprocess(self, result: Any, *_: Any) -> Any:
        return result


class _Body(nn.Module):
    """Our backbone below torchvision's pyramid, with the names of torchvision's backbones."""

    def __init__(self, ours: Detector, finest: int, extra: nn.Module) -> None:
        super().__init__()
        assert isinstance(ours.backbone, CodedResNet)
        coded = copy.deepcopy(ours.backbone)  # the weights come with the state
        stages = {name: module for name, module in coded.named_children() if name != "stem"}
        self.body = nn.ModuleDict({**dict(coded.stem.named_children()), **stages})
        self.fpn = FeaturePyramidNetwork(list(coded.out.channels[finest - 2 :]), WIDTH, extra)  # type: ignore[arg-type]
        self.finest, self.out_channels = finest, WIDTH

    def forward(self, pixels: Tensor) -> Any:
        maps = []
        for name, module in self.body.items():
            pixels = module(pixels)
            if name.startswith("layer"):
                maps.append(pixels)
        return self.fpn(OrderedDict((str(i), x) for i, x in enumerate(maps[self.finest - 2 :])))


def _retinanet(ours: Detector) -> nn.Module:
    sizes = tuple(tuple(int(2 * 2**level * 2 ** (k / 3)) for k in range(3)) for level in range(3, 8))
    body = _Body(ours, 3, LastLevelP6P7(WIDTH, WIDTH))
    head = RetinaNetHead(WIDTH, 9, ours.num_classes, norm_layer=partial(nn.GroupNorm, 32))
    return RetinaNet(body, ours.num_classes, anchor_generator=AnchorGenerator(sizes, RATIOS), head=head)


def _faster_rcnn(ours: Detector) -> nn.Module:
    return FasterRCNN(
        _Body(ours, 2, LastLevelMaxPool()),
        rpn_anchor_generator=AnchorGenerator(tuple((3 * 2**level,) for level in range(2, 7)), RATIOS),
        box_head=TwoMLPHead(WIDTH * 49, 128),
        box_predictor=FastRCNNPredictor(128, ours.num_classes + 1),
    )


_SLIM: Final[Mapping[str, Callable[[Detector], nn.Module]]] = {"retinanet": _retinanet, "faster_rcnn": _faster_rcnn}


def peer(name: str, ours: Detector) -> Peer:
    """torchvision's form of `ours`, which is the network that `NETWORKS` has under this name, with its weights."""
    if name in _SLIM:
        return Peer(_SLIM[name](ours), ours)
    labels = ours.num_classes + (ours.proposals is not None)
    return Peer(get_model(name, weights=None, weights_backbone=None, num_classes=labels), ours)
