"""Mask and MaskIoU heads as data: their text, their order, what they refuse."""

from __future__ import annotations

import pytest

from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import format_module, parse_module
from detsearch.arch.modules.heads import TwoFCSpec
from detsearch.arch.modules.masks import MaskIoUSpec, MaskSpec
from detsearch.arch.partial_order import module_leq
from detsearch.errors import SpecError


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("2fc", None),
        ("2fc(mask=mask)", MaskSpec()),
        ("2fc(mask=mask(norm=bn))", MaskSpec(norm="bn")),
        ("2fc(mask=mask(score=maskiou))", MaskSpec(score=MaskIoUSpec())),
        ("2fc(mask=mask(width=64,depth=2,score=maskiou(hidden=256)))", MaskSpec(64, 2, score=MaskIoUSpec(hidden=256))),
    ],
)
def test_text(text: str, mask: MaskSpec | None) -> None:
    assert parse_module(text, "head") == TwoFCSpec(mask=mask)
    assert format_module(TwoFCSpec(mask=mask)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2fc(mask=maskiou)", "expected a MaskSpec for 2fc field 'mask', got maskiou"),
        ("2fc(mask=mask(score=mask))", "expected a MaskIoUSpec for mask field 'score', got mask"),
        ("2fc(mask=mask(width=4))", "mask: width: expected 8 to 2048, got 4"),
        ("2fc(mask=mask(depth=0))", "mask: depth: expected 1 to 16, got 0"),
        ("2fc(mask=mask(score=maskiou(hidden=1)))", "maskiou: hidden: expected 8 to 4096, got 1"),
        ("2fc(mask=mask(norm=ln))", "expected auto or none or bn or gn"),
        ("mask", "expected a head module, got mask"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_module(text, "head")
    assert message in str(caught.value)


def test_deeper_and_wider() -> None:
    known = catalogue()
    small = MaskSpec(64, 2, score=MaskIoUSpec(64, 2, 256))
    for larger in (
        MaskSpec(128, 2, score=small.score),
        MaskSpec(64, 4, score=small.score),
        MaskSpec(64, 2, score=MaskIoUSpec(64, 3, 1024)),
    ):
        assert module_leq(TwoFCSpec(mask=small), TwoFCSpec(mask=larger), known)
        assert not module_leq(TwoFCSpec(mask=larger), TwoFCSpec(mask=small), known)
    for other in (None, MaskSpec(64, 2), MaskSpec(64, 2, "gn", small.score), MaskSpec(0, 2, score=small.score)):
        assert not module_leq(TwoFCSpec(mask=small), TwoFCSpec(mask=other), known)
        assert not module_leq(TwoFCSpec(mask=other), TwoFCSpec(mask=small), known)
