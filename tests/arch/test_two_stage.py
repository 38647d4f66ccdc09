"""Proposals and R-CNN heads as text and data."""

from __future__ import annotations

import pytest

from detsearch.arch.code import format_network, parse_module, parse_network
from detsearch.arch.modules.heads import TwoFCSpec
from detsearch.arch.modules.masks import MaskSpec
from detsearch.arch.modules.proposals import RPNSpec
from detsearch.arch.partial_order import leq
from detsearch.errors import SpecError
from detsearch.types import InputSize


@pytest.mark.parametrize(
    "text",
    [
        "resnet50/fpn(levels=2-3-4-5-6,extra_from=pool)/rpn/2fc",
        "resnet50/fpn(levels=2-3-4-5-6,extra_from=pool,norm=bn)/rpn(depth=2)/2fc(fcs=1,convs=4,norm=bn)",
        "resnet18/rpn(width=256,anchor_scale=4,keep=300)/2fc(width=512,mask=mask)/gn_ws",
    ],
)
def test_text_there_and_back(text: str) -> None:
    assert format_network(parse_network(text)) == text


def test_fields() -> None:
    assert parse_module("rpn(width=64,depth=2)") == RPNSpec(width=64, depth=2)
    assert parse_module("2fc(convs=4,conv_width=64,mask=mask)") == TwoFCSpec(convs=4, conv_width=64, mask=MaskSpec())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet18/fpn/2fc", "proposals beside 2fc: expected any proposals, got none"),
        ("resnet18/fpn/rpn/retinanet", "proposals beside retinanet: expected none, got rpn"),
        ("resnet18/fpn/rpn(depth=0)/2fc", "depth: expected 1 to 16, got 0"),
        ("resnet18/fpn/rpn(keep=0)/2fc", "keep: expected 1 to 10000, got 0"),
        ("resnet18/fpn/rpn/2fc(fcs=0)", "fcs: expected 1 to 8, got 0"),
        ("resnet18/fpn/rpn/2fc(width=4)", "width: expected 8 to 8192, got 4"),
    ],
)
def test_what_cannot_be_is_explained(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_network(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("small", "large", "comparable"),
    [
        ("rpn/2fc", "rpn/2fc(width=2048)", True),
        ("rpn/2fc", "rpn/2fc(fcs=3)", True),
        ("rpn/2fc(convs=1)", "rpn/2fc(fcs=3,convs=2)", True),
        ("rpn/2fc", "rpn/2fc(convs=2)", False),  # the first convolution may narrow the maps
        ("rpn(width=64)/2fc", "rpn(width=128,depth=2)/2fc", True),
        ("rpn(width=64)/2fc", "rpn/2fc", False),
        ("rpn/2fc", "rpn(keep=2000)/2fc", False),
        ("rpn/2fc(mask=mask)", "rpn/2fc(mask=mask(depth=5))", True),
        ("rpn/2fc", "rpn/2fc(mask=mask)", False),
    ],
)
def test_order(small: str, large: str, comparable: bool) -> None:
    a, b = (parse_network(f"resnet18/fpn/{text}").at(InputSize(512, 512)) for text in (small, large))
    assert leq(a, b) == comparable
    assert not leq(b, a)
