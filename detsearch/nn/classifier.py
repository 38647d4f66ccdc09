"""A backbone as an image classifier: what it is pretrained as, and how its cost is compared."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.nn.freezing import Freezable
from detsearch.nn.interfaces import Backbone
from detsearch.nn.ops.dense import precise
from detsearch.nn.ops.pixels import normalised, statistics_for
from detsearch.nn.structures import ImageBatch


class Classifier(Freezable):
    """The backbone's last map, its mean over all places, a linear layer (He et al., CVPR 2016).

    Pixels are normalised as a detector does, so that the weights in `backbone` fit one. Padding is not left out of the
    mean: classifiers are trained on images of one size. timm's models may have layers behind their last map that are
    left out here, as in a detector. While training, `smoothing` spreads that share of each label over all classes
    (Szegedy et al., CVPR 2016).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, num_classes: int, *, smoothing: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes, self.smoothing = num_classes, smoothing
        self.head = nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(backbone.out.channels[-1], num_classes),
            )
        )
        mean, std = statistics_for(backbone)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def parts(self) -> dict[str, nn.Module]:
        """In the order in which an image passes them."""
        return {"backbone": cast(nn.Module, self.backbone), "classifier": self.head}

    def logits(self, images: ImageBatch) -> Tensor:
        """(B, classes), at least float32."""
        maps = self.backbone(normalised(images, self.mean, self.std).pixels)
        return precise(self.head(maps[-1]))

    def losses(self, images: ImageBatch, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy, mean over the images, of (B,) int64 labels in 0..C-1."""
        return {"cross_entropy": F.cross_entropy(self.logits(images), labels, label_smoothing=self.smoothing)}

    def forward(self, images: ImageBatch, labels: Tensor | None = None) -> dict[str, Tensor] | Tensor:
        """Losses where labels are given, logits otherwise."""
        return self.logits(images) if labels is None else self.losses(images, labels)
