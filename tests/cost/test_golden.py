"""Costs of published detectors against their published figures."""

from __future__ import annotations

import pytest

from detsearch.arch.code import parse_detector
from detsearch.build import build
from detsearch.cost.count import count_cost
from detsearch.types import CostMetrics

PYRAMID = "fpn(levels=2-3-4-5-6,extra_from=pool)"
GOLDEN: dict[str, tuple[float, float | None, dict[str, int]]] = {
    "resnet50(stride_in=1x1)/fpn/fcos@1280x800": (32.2e6, 201e9, {}),
    f"resnet50/{PYRAMID}/rpn/2fc@1280x800": (41.5e6, 207e9, {"proposals": 1000}),
    f"resnet50/{PYRAMID}/rpn/2fc(mask=mask)@1280x800": (44.3e6, None, {"proposals": 1000, "masks": 100}),
}
"""Parameters and MACs with 80 classes, within 1 %, and the regions that are counted."""


@pytest.mark.parametrize("code", GOLDEN)
def test_parameters_and_macs_of_published_detectors(code: str) -> None:
    params, macs, regions = GOLDEN[code]
    spec = parse_detector(code)
    found = count_cost(build(spec.network, 80), spec.input)
    assert found.params == pytest.approx(params, rel=0.01)
    if macs is not None:
        assert found.macs == pytest.approx(macs, rel=0.01)
    assert found.regions == regions


def test_regions_are_those_that_the_modules_keep() -> None:
    spec = parse_detector("basicblock_8_1-2-2-2/fpn(levels=4-5,width=16)/rpn(keep=40)/2fc(width=16,mask=mask)@64x64")
    found = count_cost(build(spec.network, 3), spec.input)
    assert found.regions == {"proposals": 40, "masks": 100}
    assert CostMetrics.from_json(found.to_json()) == found
    one_stage = parse_detector("basicblock_8_1-2-2-2/fpn(levels=4-5,width=16)/retinanet(depth=1)@64x64")
    assert count_cost(build(one_stage.network, 3), one_stage.input).regions == {}
    old = {name: value for name, value in found.to_json().items() if name != "regions"}
    assert CostMetrics.from_json(old).regions == {}
