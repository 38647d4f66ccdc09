from __future__ import annotations

import pytest

from detsearch.arch.blockcode import BlockCode
from detsearch.arch.code import format_detector
from detsearch.arch.modules.backbones import CodedResNetSpec
from detsearch.arch.modules.heads import CascadeSpec
from detsearch.arch.modules.necks import FPNSpec
from detsearch.arch.modules.proposals import GARPNSpec
from detsearch.arch.presets import SM_NAS, preset, resolve
from detsearch.arch.published import PUBLISHED, published, published_of_backbone
from detsearch.types import InputSize

TABLE = {
    "E0": ("512x512", "basicblock_64_1-21-21-12", (3, 6), 128, False, None, 24.5, 27.1),
    "E1": ("800x600", "basicblock_56_111-2111-2-111112", (3, 6), 256, False, None, 32.2, 34.3),
    "E2": ("800x600", "basicblock_48_12-11111-211-1112", (2, 6), 128, False, 3, 39.5, 40.1),
    "E3": ("800x600", "bottleneck_56_211-111111111-2111111-11112111", (2, 6), 128, False, 3, 50.7, 42.7),
    "E4": ("800x600", "Xbottleneck_56_21-21-111111111111111-2111111", (2, 6), 256, True, 3, 80.2, 43.9),
    "E5": ("1333x800", "Xbottleneck_56_21-21-11111111111111-21111111", (2, 6), 256, True, 3, 108.1, 46.1),
}
"""SM-NAS's table of results; levels in the field's names, one higher than the paper's."""


@pytest.mark.parametrize("name", TABLE)
def test_presets_of_sm_nas_are_the_papers(name: str) -> None:
    size, code, (first, last), width, guided, stages, latency, ap = TABLE[name]
    spec = preset(name)
    net = spec.network
    assert spec.input == InputSize.parse(size)
    assert net.norm == "bn"
    assert isinstance(net.backbone, CodedResNetSpec)
    assert (net.backbone.code, net.backbone.stem) == (BlockCode.parse(code), "deep")
    assert isinstance(net.neck, FPNSpec)
    assert (net.neck.levels, net.neck.width) == (tuple(range(first, last + 1)), width)
    assert isinstance(net.proposals, GARPNSpec) == guided
    assert (net.head.stages if isinstance(net.head, CascadeSpec) else None) == stages
    assert (PUBLISHED[name].latency_ms, PUBLISHED[name].ap) == (latency, pytest.approx(ap / 100))


def test_what_is_published_is_found_by_the_code_too() -> None:
    assert set(SM_NAS) == set(PUBLISHED)
    for name, figures in PUBLISHED.items():
        spec = preset(name)
        assert published(resolve(format_detector(spec))) is figures
        assert published(resolve(name, InputSize(640, 640))) is None, "another detector"
        assert published_of_backbone(spec.network.backbone) == (spec.input, figures)
    assert published(preset("faster_rcnn_r50_fpn")) is None
    assert published_of_backbone(preset("faster_rcnn_r50_fpn").network.backbone) is None
