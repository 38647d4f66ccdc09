"""Cells in the heads of detectors: text, order, what is refused; and heads given cells."""

from __future__ import annotations

import pytest
from hypothesis import given

from detsearch.arch.catalogue import catalogue
from detsearch.arch.cells import MASK_CELL, PUBLISHED_BOXES, CellSpec
from detsearch.arch.code import format_module, format_network, parse_module, parse_network
from detsearch.arch.head_cells import cells_in, with_cells, with_tower
from detsearch.arch.modules.heads import CascadeSpec, FCOSHeadSpec, RetinaNetHeadSpec, TwoFCSpec
from detsearch.arch.modules.masks import MaskIoUSpec, MaskSpec
from detsearch.arch.modules.towers import CellGroupSpec, CellTowersSpec
from detsearch.arch.partial_order import module_leq
from detsearch.arch.spec import ModuleSpec
from detsearch.errors import SpecError
from tests.arch.toys import cell_specs

OTHER = CellSpec.parse("std1(0)|sep1(2)")


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("fcos(tower=cells)", FCOSHeadSpec(tower=CellTowersSpec())),
        ("retinanet(loss=giou,tower=cells)", RetinaNetHeadSpec(loss="giou", tower=CellTowersSpec())),
        ("fcos(tower=cells(width=128-256))", FCOSHeadSpec(tower=CellTowersSpec(width=(128, 256)))),
        (
            "fcos(tower=cells(boxes=std1(0)|sep1(2),width=64,repeats=3,order=parallel,norm=bn))",
            FCOSHeadSpec(tower=CellTowersSpec(OTHER, width=(64,), repeats=3, order="parallel", norm="bn")),
        ),
        ("2fc(mask=mask(tower=cellgroup))", TwoFCSpec(mask=MaskSpec(tower=CellGroupSpec()))),
        (
            "cascade(mask=mask(score=maskiou,tower=cellgroup(cell=std1(0)|sep1(2),width=64)))",
            CascadeSpec(mask=MaskSpec(score=MaskIoUSpec(), tower=CellGroupSpec(OTHER, 64))),
        ),
    ],
)
def test_text(text: str, head: ModuleSpec) -> None:
    assert parse_module(text, "head") == head
    assert format_module(head) == text


def test_one_text_for_one_network() -> None:
    """Equal widths are one width, and edges of a node may come in any order."""
    assert format_module(parse_module("fcos(tower=cells(width=96-96))")) == "fcos(tower=cells)"
    turned = "fcos(tower=cells(boxes=std3(1)+sep3(0)|std1(2)+sep1d2(1)|std2(3)+sep2(2)))"
    assert format_module(parse_module(turned)) == "fcos(tower=cells)"


@given(cell_specs())
def test_any_cell_reads_back(cell: CellSpec) -> None:
    for module in (
        FCOSHeadSpec(tower=CellTowersSpec(classes=cell)),
        TwoFCSpec(mask=MaskSpec(tower=CellGroupSpec(cell))),
    ):
        assert parse_module(format_module(module)) == module


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fcos(tower=cells(boxes=sep4(0)))", "code at character 24, cells: cell at character 1: expected an operation"),
        ("fcos(tower=cells(boxes=sep33(0)))", "did you mean sep3?"),
        ("fcos(tower=cells(boxes=sep3(0)|std1(3)))", "cells: cell at character 9, node 3: expected edges from 0 to 2"),
        ("fcos(tower=cells(width=4))", "cells: width: expected 8 to 2048, got 4"),
        ("fcos(tower=cells(width=8-16-32))", "cells: width: expected one number, or one for boxes and one for classes"),
        ("fcos(tower=cells(repeats=0))", "cells: repeats: expected 1 to 8, got 0"),
        ("fcos(tower=cells(order=both))", "expected sequential or parallel or reversed"),
        ("fcos(tower=cellgroup)", "expected a CellTowersSpec or none for fcos field 'tower', got cellgroup"),
        ("2fc(mask=mask(tower=cells))", "for mask field 'tower', got cells"),
        ("fcos(depth=2,tower=cells)", "fcos: depth: expected 4 beside a tower, which has its own, got 2; leave it out"),
        ("fcos(width=64,tower=cells)", "fcos: width: expected 0 beside a tower"),
        ("retinanet(norm=gn,tower=cells)", "retinanet: norm: expected auto beside a tower"),
        ("2fc(mask=mask(depth=1,tower=cellgroup))", "mask: depth: expected 4 beside a tower"),
        ("cells", "expected a head module, got cells"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_module(text, "head")
    assert message.replace(" or none for", " for") in str(caught.value).replace(" or none for", " for")


def test_wider_edges_and_more_cells_are_greater() -> None:
    known = catalogue()
    small = CellTowersSpec(width=(64,), repeats=1)
    for larger in (CellTowersSpec(width=(64, 96), repeats=1), CellTowersSpec(width=(96,), repeats=3)):
        a, b = FCOSHeadSpec(tower=small), FCOSHeadSpec(tower=larger)
        assert module_leq(a, b, known)
        assert not module_leq(b, a, known)
    group = MaskSpec(tower=CellGroupSpec(width=64))
    assert module_leq(group, MaskSpec(tower=CellGroupSpec(width=96)), known)
    assert not module_leq(group, MaskSpec(tower=CellGroupSpec(width=32, repeats=3)), known)


@pytest.mark.parametrize(
    "other",
    [
        None,
        CellTowersSpec(width=(96, 64)),
        CellTowersSpec(OTHER),
        CellTowersSpec(classes=OTHER),
        CellTowersSpec(order="parallel"),
        CellTowersSpec(norm="bn"),
    ],
)
def test_what_is_neither_wider_nor_deeper_is_not_comparable(other: CellTowersSpec | None) -> None:
    """Above all a tower of cells and one of plain convolutions."""
    a, b = FCOSHeadSpec(tower=CellTowersSpec(width=(64, 96))), FCOSHeadSpec(tower=other)
    assert not module_leq(a, b, catalogue())
    assert not module_leq(b, a, catalogue())


def test_cells_of_a_head_by_their_place() -> None:
    head = parse_module("cascade(mask=mask(tower=cellgroup))", "head")
    assert cells_in(head) == {"mask.tower.cell": MASK_CELL}
    changed = with_cells(head, {"mask.tower.cell": OTHER})
    assert format_module(changed) == "cascade(mask=mask(tower=cellgroup(cell=std1(0)|sep1(2))))"
    towers = parse_module("fcos(tower=cells(width=64))", "head")
    assert list(cells_in(towers)) == ["tower.boxes", "tower.classes"]
    changed = with_cells(towers, {"tower.classes": OTHER})
    assert cells_in(changed) == {"tower.boxes": PUBLISHED_BOXES, "tower.classes": OTHER}
    assert cells_in(parse_module("fcos", "head")) == {}


@pytest.mark.parametrize(
    ("plain", "celled"),
    [
        ("fpn/fcos", "fpn/fcos(tower=cells)"),
        ("fpn/retinanet(width=64,depth=2,norm=gn,loss=giou)", "fpn/retinanet(loss=giou,tower=cells)"),
        ("fpn/rpn/2fc(width=64,mask=mask(depth=2))", "fpn/rpn/2fc(width=64,mask=mask(tower=cellgroup))"),
        ("fpn/rpn/cascade(mask=mask(score=maskiou))", "fpn/rpn/cascade(mask=mask(score=maskiou,tower=cellgroup))"),
        ("fpn/fcos(tower=cells(width=64))", "fpn/fcos(tower=cells(width=64))"),
    ],
)
def test_cells_where_there_were_convolutions(plain: str, celled: str) -> None:
    assert format_network(with_tower(parse_network(f"resnet18/{plain}"))) == f"resnet18/{celled}"


def test_a_head_without_a_place_for_cells() -> None:
    with pytest.raises(SpecError, match="head: expected fcos, retinanet, or a mask branch, where cells may stand, got"):
        with_tower(parse_network("resnet18/fpn/rpn/2fc"))
