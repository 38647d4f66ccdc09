"""A backbone as an image classifier: what it is pretrained as, and how its cost is compared."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.nn.interfaces import Backbone
from detsearch.nn.ops.dense import precise
from detsearch.nn.ops.pixels import MEAN, STD, normalised, per_channel
from detsearch.nn.structures import ImageBatch


class Classifier(nn.Module):
    """The backbone's last map, its mean over all places, a linear layer (He et al., CVPR 2016).

    Pixels are normalised as a detector does, so that the weights in `backbone` fit one. Padding is not left out of the
    mean: classifiers are trained on images of one size. timm's models may have layers behind their last map that are
    left out here, as in a detector.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.head = nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(backbone.out.channels[-1], num_classes),
            )
        )
        self.register_buffer("mean", per_channel(MEAN), persistent=False)
        self.register_buffer("std", per_channel(STD), persistent=False)

    def parts(self) -> dict[str, nn.Module]:
        """In the order in which an image passes them."""
        return {"backbone": cast(nn.Module, self.backbone), "classifier": self.head}

    def forward(self, images: ImageBatch) -> Tensor:
        """(B, classes) logits."""
        maps = self.backbone(normalised(images, self.mean, self.std).pixels)
        logits: Tensor = self.head(maps[-1])
        return logits

    def losses(self, images: ImageBatch, labels: Tensor, *, smoothing: float = 0.0) -> dict[str, Tensor]:
        """Cross entropy, mean over the images, of (B,) int64 labels in 0..C-1; `smoothing` spreads that share of each
        label over all classes (Szegedy et al., CVPR 2016)."""
        logits = precise(self(images))
        return {"cross_entropy": F.cross_entropy(logits, labels, label_smoothing=smoothing)}
