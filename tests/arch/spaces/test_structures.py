from __future__ import annotations

import pytest

from detsearch.arch.code import parse_detector
from detsearch.arch.spaces.structures import StructuresSpace, read_modular

NECK = "fpn(levels=3-4-5,width=16)"
ENDS = (f"{NECK}/retinanet(depth=1)", f"{NECK}/retinanet(depth=2)", f"pa{NECK}/retinanet(depth=2)")


@pytest.fixture(scope="module")
def space() -> StructuresSpace:
    """One structure of basicblocks; two of bottlenecks, with other necks."""
    backbones = ("basicblock_16_1-2-2-2", "bottleneck_16_1-2-2-2", "bottleneck_16_1-2-2-2")
    structures = [f"{backbone}/{end}@64x64" for backbone, end in zip(backbones, ENDS, strict=True)]
    section = {"structures": structures, "base": [14, 16], "width": [16, 24], "depth": 5, "doublings": [1]}
    found = read_modular({**section, "spread": [0.001, 1000]})
    assert isinstance(found, StructuresSpace)
    return found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # As the last structure but for code and width: of another kind than the first, and the second has another neck.
        (f"bottleneck_16_1-2-2-1/{ENDS[2]}", "its width doubles 2 times, not 1"),
        (f"bottleneck_18_1-2-1-1/{ENDS[2]}", "base width 18 is none of 14, 16"),
        (f"bottleneck_16_1-2-1-1/{ENDS[2]}".replace("width=16", "width=32"), "its neck's width is none of 16, 24"),
        (f"basicblock_16_1-2-1-111/{ENDS[0]}", "6 blocks are more than 5"),
        # As none: the first of the same kind of block answers, ...
        (f"bottleneck_16_1-2-1-1/{ENDS[0]}", f"the space has bottleneck_16_1-2-1-1/{ENDS[1]}/gn_ws@64x64"),
        (f"bottleneck_16_1-2-2-1/{NECK}/rpn/2fc", "its width doubles 2 times, not 1"),
        # ... or else the first of all.
        (f"Xbottleneck_16_1-2-1-1/{ENDS[2]}", "its blocks are no basicblock"),
        (f"mobilenetv2/{ENDS[2]}", "its backbone is no block code"),
    ],
)
def test_the_structure_that_is_most_alike_tells_why(space: StructuresSpace, text: str, reason: str) -> None:
    spec = parse_detector(f"{text}/gn_ws@64x64")
    assert reason in (space.fault(spec) or "")
    assert not space.contains(spec)


def test_members_have_no_fault(space: StructuresSpace) -> None:
    for end, block in zip(ENDS, ("basicblock", "bottleneck", "bottleneck"), strict=True):
        spec = parse_detector(f"{block}_16_1-2-1-1/{end}/gn_ws@64x64")
        assert space.fault(spec) is None
        assert space.contains(spec)
