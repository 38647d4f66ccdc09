from __future__ import annotations

import pytest

from detsearch.arch.code import parse_detector
from detsearch.arch.presets import preset
from detsearch.errors import SpecError
from detsearch.search.factors import FACTORS, choices, code_factors


def test_factors_of_a_published_code() -> None:
    """basicblock_56_111-2111-2-111112: 14 blocks, which double at the fourth, the eighth and the last."""
    assert code_factors(preset("E1")) == {
        "depth": 14.0,
        "width": 56.0,
        "dc1": 3 / 14,
        "dc2": 7 / 14,
        "dc3": 13 / 14,
        "len2": 3 / 14,
        "len3": 4 / 14,
        "len4": 1 / 14,
        "len5": 6 / 14,
        "neck": 256.0,
    }
    assert set(code_factors(preset("E1"))) == set(FACTORS)


def test_what_a_detector_lacks_is_left_out() -> None:
    found = code_factors(parse_detector("basicblock_8_21-1-1-1/rpn/2fc@64x64"))
    assert set(found) == {"depth", "width", "dc1", "len2", "len3", "len4", "len5"}
    assert found["dc1"] == 0.0, "the first block doubles"
    classical = code_factors(parse_detector("mobilenetv2/fpn/retinanet@128x128"))
    assert classical["width"] == 24
    with pytest.raises(SpecError, match="swin"):
        code_factors(parse_detector("timm(model=swin_tiny_patch4_window7_224)/fpn(width=8)/retinanet@128x128"))


def test_parts_of_several_kinds_are_choices_as_they_stand() -> None:
    found = choices(
        [
            parse_detector("resnet18/fpn(levels=3-4-5)/rpn/2fc@512x512"),
            parse_detector("resnet50/fpn(levels=3-4-5)/retinanet@800x600"),
            parse_detector("resnet50/rpn/cascade/gn_ws@800x600"),
        ]
    )
    assert found == {
        "input": ["512x512", "800x600", "800x600"],
        "backbone": ["resnet18", "resnet50", "resnet50"],
        "neck": ["fpn(levels=3-4-5)", "fpn(levels=3-4-5)", "none"],
        "proposals": ["rpn", "none", "rpn"],
        "head": ["2fc", "retinanet", "cascade"],
        "norm": ["bn", "bn", "gn_ws"],
    }


def test_parts_of_one_kind_are_taken_apart_where_several_fields_vary() -> None:
    found = choices(
        [
            parse_detector("resnet18/fpn(levels=3-4-5,width=64)/retinanet(depth=1)@512x512"),
            parse_detector("resnet18/fpn(levels=4-5,width=32)/retinanet(depth=2)@512x512"),
        ]
    )
    assert found["neck levels"] == ["3-4-5", "4-5"]
    assert found["neck width"] == ["64", "32"]
    assert "neck" not in found
    assert found["head"] == ["retinanet(depth=1)", "retinanet(depth=2)"]
    assert choices([])["input"] == []
