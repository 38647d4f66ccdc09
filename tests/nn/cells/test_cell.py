"""Cells, groups of them, and what stands in place of a head's convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detsearch.arch.catalogue import catalogue
from detsearch.arch.cells import OPERATIONS, PUBLISHED_BOXES, CellSpec
from detsearch.arch.modules.heads import FCOSHeadSpec, RetinaNetHeadSpec
from detsearch.arch.modules.masks import MaskSpec
from detsearch.arch.modules.towers import CellGroupSpec, CellTowersSpec, GroupOrder
from detsearch.arch.partial_order import module_leq
from detsearch.arch.spec import NORMS, ModuleSpec, Norm
from detsearch.nn.cells.cell import Cell, CellGroup, CellTowers, build_cell_group, build_cell_towers
from detsearch.nn.heads.fcos import build_fcos
from detsearch.nn.heads.mask import build_mask
from detsearch.nn.heads.retinanet import build_retinanet
from detsearch.nn.heads.towers import Towers
from detsearch.nn.norms import GroupNorm, Norms, WSConv2d
from detsearch.types import FeatureSpec

MAPS = FeatureSpec.of((3, 4), (16, 16))
GN = Norms("bn", "gn")
ORDERS: tuple[GroupOrder, ...] = ("sequential", "parallel", "reversed")
SMALL = CellTowersSpec(width=(8, 12), repeats=2)


def _towers(spec: CellTowersSpec = SMALL, features: FeatureSpec = MAPS, norm: Norm = "bn") -> CellTowers:
    torch.manual_seed(0)
    return build_cell_towers(spec, features=features, num_classes=3, norm=norm)


def test_a_cell_is_sums_of_edges_joined() -> None:
    """Against the formula, written out."""
    torch.manual_seed(0)
    cell = Cell(GN, CellSpec.parse("std1(0)+sep1(1)|skip(2)"), 16, 8).double()
    before, last = torch.randn(2, 1, 16, 5, 4, dtype=torch.float64)
    (first, second), (third,) = ((*edges,) for edges in cell.nodes)  # type: ignore[misc]
    two = first.up(first.operation(first.down(before))) + second.up(second.operation(second.down(last)))
    three = third.up(third.down(two))
    torch.testing.assert_close(cell(before, last), cell.out(torch.cat([two, three], dim=1)))


def test_every_cell_reads_the_two_outputs_before_it() -> None:
    group = CellGroup(GN, PUBLISHED_BOXES, 16, 8, 3).double()
    before, last = torch.randn(2, 1, 16, 5, 4, dtype=torch.float64)
    a, b, c = group.cells
    one = a(before, last)
    two = b(last, one)
    torch.testing.assert_close(group(before, last), c(one, two))


@pytest.mark.parametrize("order", ORDERS)
def test_which_group_reads_what(order: GroupOrder) -> None:
    towers = _towers(replace(SMALL, order=order)).double()
    level = torch.randn(2, 16, 6, 5, dtype=torch.float64)
    classes, boxes = towers(level)
    first_boxes, first_classes = towers.boxes(level, level), towers.classes(level, level)
    expected = {
        "sequential": (towers.classes(first_boxes, level), first_boxes),
        "parallel": (first_classes, first_boxes),
        "reversed": (first_classes, towers.boxes(first_classes, level)),
    }[order]
    torch.testing.assert_close((classes, boxes), expected)
    assert towers.width == classes.shape[1] == boxes.shape[1] == 16


def test_each_group_has_its_own_width() -> None:
    towers = _towers()
    for group, width in ((towers.boxes, 8), (towers.classes, 12)):
        downs = [m.down for m in group.modules() if hasattr(m, "down")]
        assert len(downs) == 12
        assert {down.out_channels for down in downs} == {width}  # type: ignore[union-attr]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layers", ["auto", "none", "bn", "gn"])
def test_norm_behind_the_convolutions(norm: Norm, layers: Any) -> None:
    """Group norm beside batch norm unless asked otherwise; weights are standardised where a norm follows at once."""
    towers = _towers(replace(SMALL, norm=layers), norm=norm)
    kinds = {type(m) for m in towers.modules() if isinstance(m, (nn.GroupNorm, nn.BatchNorm2d))}
    expected = {"none": set(), "bn": {nn.BatchNorm2d}}.get(layers, {GroupNorm})
    assert kinds == expected
    standardised = any(isinstance(m, WSConv2d) for m in towers.modules())
    assert standardised == (layers == "auto" and norm == "gn_ws")


def test_wide_maps_are_brought_to_the_width_of_a_head() -> None:
    """A backbone's last map has 2,048 channels."""
    wide = FeatureSpec.of((5,), (600,))
    towers = _towers(CellTowersSpec(width=(8,), repeats=1), features=wide)
    assert [tuple(t.shape) for t in towers(torch.randn(1, 600, 3, 3))] == [(1, 512, 3, 3)] * 2
    group = build_cell_group(CellGroupSpec(width=8, repeats=1), features=wide, num_classes=3, norm="bn")
    assert group(torch.randn(2, 600, 3, 3)).shape == (2, 256, 3, 3)
    assert isinstance(_towers().enter, nn.Identity)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_gets_a_gradient(order: GroupOrder, norm: Norm) -> None:
    towers = _towers(replace(SMALL, order=order), norm=norm)
    classes, boxes = towers(torch.randn(2, 16, 7, 9))
    (classes.square().sum() + boxes.square().sum()).backward()
    for name, parameter in towers.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any(), name


def test_memory_formats_precisions_and_small_maps_agree() -> None:
    for size in ((7, 5), (1, 1), (2, 1)):
        x = torch.randn(2, 16, *size)
        towers = _towers().eval()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            low = towers(x)
        exact = towers.double()(x.double())
        for a, b in zip(low, exact, strict=True):
            assert a.isfinite().all()
            if size == (7, 5):  # norms of a few values make much of rounding
                assert (a - b).abs().mean() < 0.05 * b.abs().mean()
        towers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        last = towers(x.double().to(memory_format=torch.channels_last))
        torch.testing.assert_close(last, exact)
    empty = build_cell_group(CellGroupSpec(width=8), features=MAPS, num_classes=3, norm="bn")
    assert empty(torch.randn(0, 16, 14, 14)).shape == (0, 16, 14, 14)


@pytest.mark.parametrize("norm", ["bn", "gn_ws"])
def test_answers_begin_with_the_scale_of_the_maps(norm: Norm) -> None:
    """Variance about 1 in, about 1 out, through two groups of two cells, and gradients of about one size everywhere.
    With deviations of 0.01, as in the towers that they replace, cells would hand on next to nothing."""
    features = FeatureSpec.of((3,), (64,))
    towers = _towers(CellTowersSpec(width=(32,)), features=features, norm=norm)
    x = torch.randn(2, 64, 16, 16)
    outputs = towers(x)
    for out in outputs:
        assert 0.3 < out.std() < 2
    torch.stack([(out * torch.randn_like(out)).sum() for out in outputs]).sum().backward()
    sizes = [m.weight.grad.square().mean().sqrt() for m in towers.modules() if isinstance(m, nn.Conv2d)]
    assert max(sizes) < 300 * min(sizes)
    for module in towers.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
    if norm == "bn":
        assert towers(x)[0].std() < 0.05


@pytest.mark.parametrize("tower", [None, SMALL])
def test_heads_take_towers_of_either_kind(tower: CellTowersSpec | None) -> None:
    for head in (
        build_fcos(FCOSHeadSpec(tower=tower), features=MAPS, num_classes=2, norm="bn"),
        build_retinanet(RetinaNetHeadSpec(tower=tower), features=MAPS, num_classes=2, norm="bn"),
    ):
        assert isinstance(head.towers, Towers if tower is None else CellTowers)
        maps = [torch.randn(1, 16, 8, 8), torch.randn(1, 16, 4, 4)]
        assert all(len(part) == 2 for part in head(maps))


def test_a_mask_head_takes_a_group() -> None:
    head = build_mask(MaskSpec(tower=CellGroupSpec(width=8, repeats=1)), features=MAPS, num_classes=2, norm="bn")
    assert head.convs(torch.randn(3, 16, 14, 14)).shape == (3, 16, 14, 14)
    assert head.enlarge.in_channels == 16


def _cost(module: nn.Module, x: Tensor) -> tuple[int, int]:
    counter = FlopCounterMode(display=False)  # type: ignore[no-untyped-call]
    with torch.no_grad(), counter:
        module(x)
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2


cells = st.sampled_from(list(OPERATIONS)).map(lambda token: CellSpec.parse(f"{token}(0)+std1(1)|{token}(1)+sep2(2)"))
groups = st.builds(CellGroupSpec, cells, st.integers(8, 20), st.integers(1, 2))
widths = st.tuples(st.integers(8, 20), st.integers(8, 20))
towers_of = st.builds(CellTowersSpec, cells, cells, widths, st.integers(1, 2), st.sampled_from(ORDERS))


@settings(max_examples=25)
@given(st.data())
def test_what_is_greater_costs_more(data: st.DataObject) -> None:
    """The partial order's wider and deeper towers have more parameters and more MACs."""
    kind, build = data.draw(st.sampled_from([(groups, build_cell_group), (towers_of, build_cell_towers)]))
    a: Any = data.draw(kind)
    b: Any = data.draw(kind)
    if data.draw(st.booleans()):  # or nearly all pairs are of different cells
        b = replace(a, width=b.width, repeats=b.repeats)
    first: ModuleSpec = a
    if not module_leq(first, b, catalogue()) or a == b:
        return
    x = torch.empty(1, 16, 5, 5, device="meta")
    costs = [_cost(build(spec, features=MAPS, num_classes=3, norm="bn").to("meta"), x) for spec in (a, b)]
    assert all(less < more for less, more in zip(*costs, strict=True))
