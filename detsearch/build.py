"""From a description to a detector: look up each module's builder and hand one's output description to the next."""

from __future__ import annotations

from detsearch.arch.catalogue import catalogue
from detsearch.arch.spec import ModuleSpec, NetworkSpec, Norm
from detsearch.nn.classifier import Classifier
from detsearch.nn.detector import Detector


def build(network: NetworkSpec, num_classes: int) -> Detector:
    """A detector with fresh weights (torch's global generator) for classes 0..num_classes-1; SpecError where its
    modules cannot stand beside each other."""
    known = catalogue()
    known.check(network)
    norm = network.norm
    backbone = known.build(network.backbone, norm=norm)
    features = backbone.out
    neck = proposals = None
    if network.neck is None:
        features = features.last()
    else:
        neck = known.build(network.neck, features=features, norm=norm)
        features = neck.out
    if network.proposals is not None:
        proposals = known.build(network.proposals, features=features, norm=norm)
    head = known.build(network.head, features=features, num_classes=num_classes, norm=norm)
    return Detector(backbone, neck, proposals, head, num_classes=num_classes)


def build_classifier(
    backbone: ModuleSpec, num_classes: int, norm: Norm = "bn", *, smoothing: float = 0.0
) -> Classifier:
    """A backbone with fresh weights as a classifier of images, whose labels are smoothed while it trains."""
    return Classifier(catalogue().build(backbone, norm=norm), num_classes, smoothing=smoothing)
