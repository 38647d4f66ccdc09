from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from detsearch.arch import blockcode
from detsearch.arch.blockcode import BLOCKS, OUT_FACTOR, STEMS, BlockCode, changes, leq
from detsearch.errors import SpecError
from detsearch.types import InputSize
from tests.arch.toys import block_codes, grown

E0 = BlockCode.parse("basicblock_64_1-21-21-12")
E3 = BlockCode.parse("bottleneck_56_211-111111111-2111111-11112111")
RESNET50 = BlockCode.parse("bottleneck_64_111-2111-211111-211")
RESNEXT50 = BlockCode.parse("Xbottleneck_64_111-2111-211111-211")

# One kind of block and few widths and places, so that comparable pairs are common.
small = st.sampled_from(BLOCKS).flatmap(
    lambda block: st.tuples(*[block_codes(blocks=(block,), bases=st.sampled_from([4, 8, 16]), longest=2)] * 3)
)
sizes = st.builds(InputSize, st.integers(1, 300), st.integers(1, 300))


def steps(code: BlockCode, *, max_depth: int = 102, doublings: Collection[int] = ()) -> list[BlockCode]:
    """The changes of all kinds."""
    return list(itertools.chain.from_iterable(changes(code, max_depth=max_depth, doublings=doublings)))


def classifier(code: BlockCode, classes: int = 1000) -> int:
    """Parameters of the fully connected layer that makes a backbone an ImageNet classifier."""
    return (code.channels[-1] + 1) * classes


@given(block_codes())
def test_text_reads_back(code: BlockCode) -> None:
    assert BlockCode.parse(str(code)) == code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected <block>_<base width>_<stages>"),
        ("basicblock_64", "expected <block>_<base width>_<stages>"),
        ("basicblock_64_1-1-1-1_1", "expected <block>_<base width>_<stages>"),
        ("basicblock_-4_1-1-1-1", "expected <block>_<base width>_<stages>"),
        ("basicblock_٦٤_1-1-1-1", "expected <block>_<base width>_<stages>"),
        ("Basicblock_64_1-1-1-1", "expected basicblock or bottleneck or Xbottleneck or mbblock"),
        ("basicblock_63_1-1-1-1", "an even number from 4 to 1024"),
        ("basicblock_2_1-1-1-1", "an even number from 4 to 1024"),
        ("basicblock_1026_1-1-1-1", "an even number from 4 to 1024"),
        ("basicblock_64_1-1-1", "expected four stages joined by '-', got 3"),
        ("basicblock_64_1-1-1-1-1", "expected four stages joined by '-', got 5"),
        ("basicblock_64_-1-1-1", "stage 2 of a block code"),
        ("basicblock_64_1-1-1-", "stage 5 of a block code"),
        ("basicblock_64_1-13-1-1", "stage 3 of a block code: expected one or more of the digits 1 and 2, got '13'"),
        ("basicblock_64_1-1 -1-1", "stage 3 of a block code"),
        ("basicblock_64_222-222-222-1", "8 doublings"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        BlockCode.parse(text)
    assert message in str(caught.value)


def test_shapes_of_a_code() -> None:
    assert E0.channels == (64, 128, 256, 512)
    assert RESNET50.channels == (256, 512, 1024, 2048)
    assert (RESNET50.depth, RESNET50.doublings) == (16, 3)
    assert [(b.stage, b.inputs, b.outputs, b.planes, b.stride) for b in E0.blocks] == [
        (2, 64, 64, 64, 1),
        (3, 64, 128, 128, 2),
        (3, 128, 128, 128, 1),
        (4, 128, 256, 256, 2),
        (4, 256, 256, 256, 1),
        (5, 256, 256, 256, 2),
        (5, 256, 512, 512, 1),
    ]


@pytest.mark.parametrize(
    ("code", "params"),
    [
        ("basicblock_64_11-21-21-21", 11_689_512),  # torchvision's counts: ResNet-18, 34, 50, 101, ResNeXt-50 32x4d
        ("basicblock_64_111-2111-211111-211", 21_797_672),
        ("bottleneck_64_111-2111-211111-211", 25_557_032),
        (f"bottleneck_64_111-2111-2{'1' * 22}-211", 44_549_160),
        ("Xbottleneck_64_111-2111-211111-211", 25_028_904),
    ],
)
def test_classical_networks_have_their_published_parameters(code: str, params: int) -> None:
    read = BlockCode.parse(code)
    assert read.params("7x7") + classifier(read) == params


def test_e0_and_e3_as_classifiers_have_the_papers_cost() -> None:
    """SM-NAS, table of ImageNet results: E0 8.15 M parameters and 1.37 GMACs, E3 29.96 M."""
    imagenet = InputSize(224, 224)
    assert (E0.params() + classifier(E0)) / 1e6 == pytest.approx(8.15, abs=0.005)
    assert (E0.macs(imagenet) + 1000 * E0.channels[-1]) / 1e9 == pytest.approx(1.37, abs=0.015)
    assert (E3.params() + classifier(E3)) / 1e6 == pytest.approx(29.96, abs=0.005)


@pytest.mark.parametrize(("code", "size", "gmacs"), [(E0, InputSize(512, 512), 7.16), (E3, InputSize(800, 608), 59.22)])
def test_backbone_macs_at_the_detectors_input_are_the_papers(code: BlockCode, size: InputSize, gmacs: float) -> None:
    assert code.macs(size) / 1e9 == pytest.approx(gmacs, rel=0.02)


def test_resnet50_macs_by_the_place_of_the_stride() -> None:
    """4.09 and 3.80 GMACs: ResNet "v1.5" and v1 at 224, without the classifier's 2.05 M."""
    size = InputSize(224, 224)
    assert RESNET50.macs(size, "7x7") == 4_087_136_256
    assert RESNET50.macs(size, "7x7", "1x1") == pytest.approx(3.856e9, rel=0.002)
    assert E0.macs(size, "deep", "1x1") == E0.macs(size, "deep"), "only a bottleneck has a 1x1 to stride in"


@given(block_codes(longest=3), st.integers(4, 12))
def test_steps_are_valid_distinct_symmetric_and_keep_the_doublings(code: BlockCode, deepest: int) -> None:
    assume(code.depth <= deepest)
    found = steps(code, max_depth=deepest)
    assert len(set(found)) == len(found)
    assert code not in found
    for step in found:
        assert all(step.stages)
        assert (step.block, step.base, step.doublings) == (code.block, code.base, code.doublings)
        assert step.depth <= deepest
        assert abs(step.depth - code.depth) <= 1
        assert code in set(steps(step, max_depth=deepest))


def test_steps_of_a_small_code() -> None:
    found = {"-".join(step.stages) for step in steps(BlockCode.parse("mbblock_8_1-12-1-1"))}
    assert found == {
        "11-12-1-1", "1-112-1-1", "1-121-1-1", "1-12-11-1", "1-12-1-11",  # a block added
        "1-2-1-1",  # removed
        "11-2-1-1", "1-1-21-1",  # a block moved to the stage before, to the one behind
        "1-21-1-1", "1-11-2-1",  # the doubling moved, over a stage's border too
    }  # fmt: skip
    flipped = {"-".join(step.stages) for step in steps(BlockCode.parse("mbblock_8_1-12-1-1"), doublings=(0, 1, 2))}
    assert flipped - found == {"1-11-1-1", "2-12-1-1", "1-22-1-1", "1-12-2-1", "1-12-1-2"}


@given(block_codes(longest=3), st.integers(4, 12), st.sets(st.integers(0, 8), min_size=1))
def test_steps_with_more_or_fewer_doublings_are_symmetric(code: BlockCode, deepest: int, doublings: set[int]) -> None:
    assume(code.depth <= deepest and code.doublings in doublings)
    found = steps(code, max_depth=deepest, doublings=doublings)
    assert len(set(found)) == len(found)
    assert code not in found
    for step in found:
        assert step.depth <= deepest
        assert step.doublings in doublings
        assert code in set(steps(step, max_depth=deepest, doublings=doublings))


def test_a_code_may_have_no_step() -> None:
    assert steps(BlockCode.parse("mbblock_8_1-1-1-1"), max_depth=4) == []


def test_a_depth_limit_beyond_all_codes_is_harmless() -> None:
    code = BlockCode("mbblock", 8, ("1" * 509, "1", "1", "1"))
    assert all(step.depth <= 512 for step in steps(code, max_depth=10**6))


def test_every_step_is_reachable_from_any_other_code() -> None:
    """All codes of one base with two doublings and at most six blocks hang together."""
    start = BlockCode.parse("mbblock_8_1-1-2-2")
    seen, todo = {start}, [start]
    while todo:
        new = set(steps(todo.pop(), max_depth=6)) - seen
        seen |= new
        todo += new
    assert len(seen) == 6 + 4 * 10 + 10 * 15, "by depth: places of the doublings x sizes of the stages"


@given(small)
def test_leq_is_a_partial_order(codes: tuple[BlockCode, BlockCode, BlockCode]) -> None:
    a, b, c = codes
    assert leq(a, a)
    assert not (leq(a, b) and leq(b, a)) or a == b
    assert not (leq(a, b) and leq(b, c)) or leq(a, c)


@pytest.mark.parametrize("block", BLOCKS)
def test_cost_grows_along_the_order(block: blockcode.Block) -> None:
    """Over all pairs of a sample that is dense enough to hold thousands of comparable ones."""
    rng = np.random.default_rng(0)
    codes = {
        BlockCode(block, int(base), tuple(rng.choice(["1", "2", "11", "12", "21", "22"], 4)))
        for base in rng.choice([4, 6, 8, 16, 32], 400)
    }
    cost = {
        code: [f for stem in STEMS for f in (code.params(stem), code.macs(InputSize(33, 64), stem))] for code in codes
    }
    comparable = [(a, b) for a in codes for b in codes if a != b and leq(a, b)]
    assert len(comparable) > 1000
    for a, b in comparable:
        assert all(x < y for x, y in zip(cost[a], cost[b], strict=True)), f"{a} <= {b}"


@given(grown(), sizes, st.sampled_from(STEMS), st.sampled_from(["3x3", "1x1"]))
def test_a_deeper_or_wider_code_costs_more_at_any_input(
    codes: list[BlockCode], size: InputSize, stem: blockcode.Stem, stride_in: blockcode.StrideIn
) -> None:
    for a, b in itertools.combinations(codes, 2):
        assert leq(a, b)
        assert leq(b, a) == (a == b)
        assert a.params(stem) <= b.params(stem)
        assert a.macs(size, stem, stride_in) <= b.macs(size, stem, stride_in)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("basicblock_64_11-21-21-21", "basicblock_64_111-2111-211111-211", True),  # ResNet-18 and 34
        ("basicblock_64_11-21-21-21", "bottleneck_64_111-2111-211111-211", False),  # another block
        ("basicblock_64_11-21-21-12", "basicblock_64_11-21-21-21", True),  # an earlier doubling is wider
        ("basicblock_48_1-2-2-2", "basicblock_64_1-2-2-2", True),
        ("basicblock_48_1-2-2-2", "basicblock_64_1-1-2-2", False),  # a wider base, narrower later
        ("basicblock_64_11-2-2-2", "basicblock_64_1-21-2-2", False),  # a block in another stage
        ("Xbottleneck_32_2-2-1-1", "Xbottleneck_64_1-2-1-1", False),  # equal widths, but twice the groups
        ("bottleneck_32_2-2-1-1", "bottleneck_64_1-2-1-1", True),
    ],
)
def test_examples_of_the_order(a: str, b: str, expected: bool) -> None:
    assert leq(BlockCode.parse(a), BlockCode.parse(b)) is expected
    assert not leq(BlockCode.parse(b), BlockCode.parse(a))


def test_traits_tell_depth_and_width_by_stage() -> None:
    assert BlockCode.parse("bottleneck_8_12-1-211-2").traits() == {
        "block": "bottleneck", "base": 8, "blocks2": 2, "width2": 16, "blocks3": 1, "width3": 16,
        "blocks4": 3, "width4": 32, "blocks5": 1, "width5": 64,
    }  # fmt: skip


@given(block_codes())
def test_channels_grow_along_a_code(code: BlockCode) -> None:
    assert list(code.channels) == sorted(code.channels)
    assert code.channels[-1] == code.base * 2**code.doublings * OUT_FACTOR[code.block]
    assert Counter(shape.stride for shape in code.blocks)[2] == 3
