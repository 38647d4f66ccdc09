"""The cost of Mask R-CNN-R50 as published, and what it is made of."""

from __future__ import annotations

import pytest

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.cost.count import count_cost
from detsearch.types import InputSize

PROPOSALS, REGIONS, CLASSES = 1000, 100, 80


def test_published_parameters_and_the_load_of_the_head() -> None:
    """44.3 M parameters with 80 classes (Zhong et al., ECCV 2020, table of mask heads). The head's MACs are those of
    1,000 proposals and 100 mask regions."""
    network = parse_network("resnet50(stride_in=1x1)/fpn(levels=2-3-4-5-6,extra_from=pool)/rpn/2fc(mask=mask)")
    cost = count_cost(build(network, CLASSES), InputSize(1280, 800))
    assert cost.params == pytest.approx(44.3e6, rel=0.01)
    boxes = 256 * 7 * 7 * 1024 + 1024 * 1024 + 1024 * (1 + CLASSES + 4 * CLASSES)
    mask = 4 * 14 * 14 * 9 * 256 * 256 + 14 * 14 * 256 * 256 * 4 + 28 * 28 * 256
    assert cost.parts["head"].macs == PROPOSALS * boxes + REGIONS * mask


def test_rating_costs_four_convolutions_and_three_layers_a_region() -> None:
    networks = [
        parse_network(f"basicblock_8_1-2-2-2/fpn(levels=2-3-4-5-6,width=16)/rpn/2fc(width=16,mask={mask})")
        for mask in ("mask", "mask(score=maskiou(hidden=64))")
    ]
    plain, rated = (count_cost(build(network, CLASSES), InputSize(128, 128)).parts["head"] for network in networks)
    convs = 9 * 16 * (17 + 16 + 16)
    layers = 16 * 7 * 7 * 64 + 64 * 64 + 64 * CLASSES
    assert rated.macs - plain.macs == REGIONS * (14 * 14 * convs + 7 * 7 * 9 * 16 * 16 + layers)
    assert rated.params - plain.params == convs + 9 * 16 * 16 + 4 * 16 + layers + 64 + 64 + CLASSES
