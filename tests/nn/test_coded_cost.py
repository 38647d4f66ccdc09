"""The closed forms of arch.blockcode equal what PyTorch counts in the networks that are built."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from detsearch.arch.blockcode import BLOCKS, STEMS, Block, BlockCode, Stem, StrideIn, leq
from detsearch.arch.code import parse_detector
from detsearch.arch.modules.backbones import CodedResNetSpec
from detsearch.arch.partial_order import leq as detector_leq
from detsearch.arch.spaces.modular import ModularSpace
from detsearch.arch.spec import NORMS, Norm
from detsearch.build import build
from detsearch.cost.count import count_cost
from detsearch.nn.backbones.coded import build_coded
from detsearch.types import InputSize
from tests.arch.toys import block_codes, grown

sizes = st.builds(InputSize, st.integers(1, 200), st.integers(1, 200))


def counted(spec: CodedResNetSpec, size: InputSize, norm: Norm) -> tuple[int, int, list[tuple[int, ...]]]:
    """Parameters, MACs and shapes of the maps, by building on the meta device and running once."""
    with torch.device("meta"):
        backbone = build_coded(spec, norm=norm).eval()
        image = torch.empty(1, 3, size.height, size.width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        maps = backbone(image)
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    params = sum(p.numel() for p in backbone.parameters())
    assert tuple(m.shape[1] for m in maps) == backbone.out.channels == spec.code.channels[: len(maps)]
    return params, flops // 2, [tuple(m.shape[-2:]) for m in maps]


@pytest.mark.parametrize("block", BLOCKS)
@settings(max_examples=12)
@given(st.data())
def test_closed_form_equals_counted_cost(block: Block, data: st.DataObject) -> None:
    code = data.draw(block_codes(blocks=(block,), bases=st.integers(2, 40).map(lambda half: 2 * half), longest=4))
    stem: Stem = data.draw(st.sampled_from(STEMS))
    stride_in: StrideIn = data.draw(st.sampled_from(["3x3", "1x1"])) if "bottleneck" in block else "3x3"
    grouped = {"groups": data.draw(st.integers(0, 9)), "group_width": data.draw(st.integers(0, 9))}
    options = {**(grouped if block == "Xbottleneck" else {}), "last": data.draw(st.integers(2, 5))}
    norm: Norm = data.draw(st.sampled_from(NORMS))
    size = data.draw(sizes)
    params, macs, maps = counted(CodedResNetSpec(code, stem, stride_in, **options), size, norm)
    assert code.params(stem, **options) == params, "the same under every norm"
    assert code.macs(size, stem, stride_in, **options) == macs
    assert maps == [(-(-size.height // s), -(-size.width // s)) for s in (4, 8, 16, 32)][: options["last"] - 1]


@pytest.mark.parametrize(
    "code", ["basicblock_64_1-21-21-12", "bottleneck_56_211-111111111-2111111-11112111", "Xbottleneck_56_21-21-11-21"]
)
@pytest.mark.parametrize("size", [InputSize(800, 608), InputSize(333, 217)], ids=str)
def test_published_codes(code: str, size: InputSize) -> None:
    """The second size is odd at every stride."""
    read = BlockCode.parse(code)
    params, macs, _ = counted(CodedResNetSpec(read), size, "bn")
    assert (read.params(), read.macs(size)) == (params, macs)


@pytest.mark.parametrize("block", BLOCKS)
@settings(max_examples=5)
@given(st.data())
def test_what_the_order_calls_larger_costs_more_as_built(block: Block, data: st.DataObject) -> None:
    """MACs and parameters of built backbones, not of closed forms; deeper, wider and with earlier doublings."""
    first, *_, last = data.draw(grown(blocks=(block,)))
    assert leq(first, last)
    stem, norm = data.draw(st.sampled_from(STEMS)), data.draw(st.sampled_from(NORMS))
    size = data.draw(sizes)
    less, more = (counted(CodedResNetSpec(code, stem), size, norm)[:2] for code in (first, last))
    assert less == more if first == last else less[0] <= more[0] and less[1] <= more[1] and less != more


CODES = ("8_1-2-2-2", "8_2-2-1-2", "8_1-2-21-2", "8_2-1-22-1", "16_1-2-2-2", "16_2-2-12-1")
FEW = ("8_1-2-2-2", "8_2-2-12-1", "16_2-2-12-1")


@pytest.mark.parametrize(
    ("block", "rest", "codes"),
    [
        ("basicblock", "rpn/2fc(width=8)", CODES),
        ("basicblock", "retinanet(depth=1)", CODES),
        ("bottleneck", "rpn/cascade(width=8)", FEW),
        ("Xbottleneck", "ga_rpn/2fc(width=8)", FEW),
        ("mbblock", "ga_rpn/cascade(stages=2,width=8)", FEW),
        *(
            pytest.param(block, rest, CODES, marks=pytest.mark.slow)
            for block in BLOCKS
            for rest in ("rpn/cascade(width=8)", "ga_rpn/2fc(width=8)", "ga_rpn/cascade(width=8)", "fcos(depth=1)")
        ),
    ],
)
def test_the_order_holds_on_whole_built_detectors(block: Block, rest: str, codes: tuple[str, ...]) -> None:
    """Over pairs of a modular space: parameters, MACs and the backbone's alone are monotone along the order."""
    structure = f"{block}_8_1-2-2-2/fpn(levels=3-4-5,width=8)/{rest}@64x64"
    choices = {"structure": structure, "base": [8, 16], "width": [8, 16], "depth": 5, "spread": [0.01, 100]}
    space = ModularSpace.from_section(choices)
    members = [
        parse_detector(f"{block}_{code}/fpn(levels=3-4-5,width={width})/{rest}/gn_ws@64x64")
        for code, width in itertools.product(codes, (8, 16))
    ]
    assert all(map(space.contains, members))
    costs = [count_cost(build(spec.network, 2), spec.input) for spec in members]
    pairs = 0
    for a, x in zip(members, costs, strict=True):
        for b, y in zip(members, costs, strict=True):
            if a != b and detector_leq(a, b):
                pairs += 1
                assert x.params < y.params
                assert x.macs < y.macs
                assert x.values()["backbone_macs"] <= y.values()["backbone_macs"]
    assert pairs >= len(members)


def test_the_detectors_backbone_costs_the_same() -> None:
    """`describe` and a search count whole detectors; their backbone part is the closed form's."""
    spec = parse_detector("basicblock_16_1-21-12-2/fpn(levels=3-4,width=16)/retinanet(depth=1)@100x70")
    assert isinstance(spec.network.backbone, CodedResNetSpec)
    part = count_cost(build(spec.network, 2), spec.input).parts["backbone"]
    code = spec.network.backbone.code
    assert (part.params, part.macs) == (code.params(), code.macs(spec.input.padded()))
