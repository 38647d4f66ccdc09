from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import yaml

from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.modules.necks import FPNSpec
from detsearch.arch.spaces import structural
from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.structural import DIMENSIONS, LEVEL_SETS, StructuralSpace
from detsearch.errors import RecipeError
from tests.contracts.space_contract import SpaceContract

SMALL: dict[str, Any] = {
    "backbone": ["resnet18", "basicblock_16_11-21-21-21"],
    "neck": [{"fpn": {"levels": ["3-4-5", "3-4-5-6-7"], "width": [64, 128]}}],
    "head": ["retinanet(depth=1)", "retinanet(depth=2)"],
    "norm": ["bn", "gn_ws"],
    "input": ["512x512", "96x96"],
}

ONE = {"backbone": ["resnet18"], "neck": ["fpn"], "head": ["retinanet"], "input": ["512x512"]}


class TestStructuralSpace(SpaceContract):
    """With an input that only the necks without P7 fit."""

    @pytest.fixture
    def space(self) -> Space:
        return StructuralSpace.from_choices(SMALL)


class TestNarrowSpace(SpaceContract):
    """With two members: one list of two, the others of one."""

    @pytest.fixture
    def space(self) -> Space:
        return StructuralSpace.from_choices({**ONE, "norm": ["bn", "gn"]})


class TestKindsOfDetectors(SpaceContract):
    """With detectors of one and of two stages."""

    @pytest.fixture
    def space(self) -> Space:
        kinds = {"proposals": ["none", "rpn", "ga_rpn"], "head": ["retinanet", "2fc", "cascade(stages=2)"]}
        return StructuralSpace.from_choices({**ONE, **kinds, "neck": ["none", "fpn"], "backbone": SMALL["backbone"]})


def refusal(choices: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        StructuralSpace.from_choices(choices)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_the_papers_space() -> None:
    """No neck or one of 42 sets of at least three of P2..P7, seven backbones, four inputs, and one head of one stage or
    two kinds of proposals with four heads."""
    space = StructuralSpace.from_choices({})
    assert len(LEVEL_SETS) == 42
    assert space.size() == (1 + 42) * 7 * 4 * (1 + 2 * 4) == 10_836 == len(set(space.all()))
    for inside in (
        "mobilenetv2/fpn(levels=2-4-7)/retinanet@1080x720",
        "resnext101_32x4d/fpn(levels=2-3-4-5-6)/ga_rpn/cascade@1333x800",
        "resnet50/rpn/cascade(stages=4)@800x600",
        "resnet18/retinanet@512x512",
    ):
        assert space.contains(parse_detector(inside))
    for outside in (
        "mobilenetv2/fpn(levels=2-4)/retinanet@1080x720",
        "resnet50/fpn/fcos@800x600",
        "resnet50/fpn(levels=2-3-4-5-6,extra_from=pool)/rpn/2fc@800x600",
    ):
        assert not space.contains(parse_detector(outside))


def test_every_kind_of_detector_is_reached_by_one_mutation_from_another() -> None:
    """Proposals and head change together."""
    space = StructuralSpace.from_choices({})
    start = parse_detector("resnet50/fpn(levels=3-4-5)/retinanet@512x512")
    near = list(space.neighbours(start))
    assert len(near) == 6 + 42 + 8 + 3
    changed = {(spec.network.proposals, spec.network.head) for spec in near if spec.input == start.input}
    assert len(changed) == 9


def test_inputs_below_the_largest_stride_are_left_out() -> None:
    space = StructuralSpace.from_choices(SMALL)
    assert space.size() == 2 * 2 * 2 * 2 * (2 + 1)
    for spec in space.all():
        assert isinstance(spec.network.neck, FPNSpec)
        assert spec.input.height == 512 or 7 not in spec.network.neck.levels


def test_choices_round_trip() -> None:
    for choices in ({}, SMALL):
        space = StructuralSpace.from_choices(choices)
        again = StructuralSpace.from_choices(space.to_choices())
        assert again == space
        assert again.to_choices() == space.to_choices()
        assert tuple(space.to_choices()) == DIMENSIONS
    assert space.to_choices()["neck"][0] == "fpn(levels=3-4-5,width=64)"


@pytest.mark.parametrize(
    ("entry", "necks"),
    [
        ("fpn", ["fpn"]),
        ("{fpn: {}}", ["fpn"]),
        ("{fpn: {width: [64, 128]}}", ["fpn(width=64)", "fpn(width=128)"]),
        ("{fpn: {levels: [[3, 4, 5]], width: [64]}}", ["fpn(levels=3-4-5,width=64)"]),
        ("{fpn: {levels: [3-4-5, 5]}}", ["fpn(levels=3-4-5)", "fpn(levels=5)"]),
        (
            "{fpn: {width: [64, 128], extra_from: [c5, p5]}}",
            ["fpn(width=64,extra_from=c5)", "fpn(width=64)", "fpn(width=128,extra_from=c5)", "fpn(width=128)"],
        ),
    ],
)
def test_a_mapping_stands_for_the_product_of_its_lists(entry: str, necks: list[str]) -> None:
    choices = {"backbone": ["resnet18"], "neck": [yaml.safe_load(entry)]}
    assert StructuralSpace.from_choices(choices).to_choices()["neck"] == necks


def test_names_and_numbers_in_a_product() -> None:
    entry = yaml.safe_load("{resnet50: {stem: [deep, 7x7], stride_in: [1x1]}}")
    heads = yaml.safe_load("{retinanet: {anchor_scale: [4, 2.5, 0.5]}}")
    space = StructuralSpace.from_choices({"backbone": [entry], "head": [heads]})
    assert space.to_choices()["backbone"] == [
        "bottleneck_64_111-2111-211111-211(stride_in=1x1)",
        "resnet50(stride_in=1x1)",
    ]
    assert space.to_choices()["head"] == ["retinanet", "retinanet(anchor_scale=2.5)", "retinanet(anchor_scale=0.5)"]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (None, "space: expected lists under backbone, neck"),
        (["resnet18"], "space: expected lists under backbone, neck"),
        ({"backbones": ["resnet18"]}, "space.backbones: expected one of backbone, neck"),
        ({3: ["resnet18"]}, "space.3: expected one of"),
        ({"backbone": "resnet18"}, "space.backbone: expected a list of one or more choices, got 'resnet18'"),
        ({"backbone": None}, "space.backbone: expected a list of one or more choices, got None"),
        ({"backbone": {"timm": {}}}, "space.backbone: expected a list"),
        ({"neck": []}, "space.neck: expected a list of one or more choices, got []"),
        ({"norm": "gn_ws"}, "space.norm: expected a list"),
        ({"input": 512}, "space.input: expected a list"),
        ({"backbone": ["resnet18", "resnt34"]}, "space.backbone[1]: expected a module, got 'resnt34' (code at"),
        ({"backbone": ["fpn"]}, "expected a backbone module, got fpn, which is a neck module"),
        ({"backbone": ["none"]}, "space.backbone: expected one or more backbones, got none"),
        ({"head": ["none"]}, "space.head: expected one or more heads, got none"),
        ({"backbone": [None]}, "space.backbone[0]: expected a module's text, or {token: {field: [values]}}, got None"),
        ({"backbone": [3]}, "space.backbone[0]: expected a module's text"),
        ({"neck": [{"fpn": {"width": 64}}]}, "space.neck[0]: expected a module's text, or {token"),
        ({"neck": [{"fpn": {"width": []}}]}, "space.neck[0]: expected a module's text, or {token"),
        ({"neck": [{"fpn": ["width"]}]}, "space.neck[0]: expected a module's text, or {token"),
        ({"neck": [{"fpn": {}, "none": {}}]}, "space.neck[0]: expected a module's text, or {token"),
        ({"neck": [{"fpn": {"widht": [64]}}]}, "did you mean width?"),
        ({"neck": [{"fpn": {"width": [64, "x"]}}]}, "got 'fpn(width=x)'"),
        ({"neck": [{"fpn": {"width": [64, None]}}]}, "got 'fpn(width=none)'"),
        ({"neck": [{3: {"width": [64]}}]}, "space.neck[0]: expected a module, got '3(width=64)'"),
        ({"norm": ["bn", "ln"]}, "space.norm[1]: expected one of bn, gn, gn_ws, got 'ln'"),
        ({"norm": [["bn"]]}, "space.norm[0]: expected one of bn, gn, gn_ws"),
        ({"input": ["512x512", "512"]}, "space.input[1]: expected WxH in pixels such as 512x512, got '512'"),
        ({"input": [[512, 512]]}, "space.input[0]: expected WxH"),
        ({"input": ["0x9"]}, "space.input[0]: expected 1 to 16384 pixels, got 0"),
        ({"backbone": ["resnet18", "basicblock_64_11-21-21-21(stem=7x7)"]}, "once, got 'resnet18' 2 times"),
        ({"input": ["96x96", "096x96"]}, "space.input: expected every choice once, got '96x96' 2 times"),
        (
            {"head": ["retinanet"], "proposals": ["rpn"]},
            "expected a combination that is valid, got none (the first: proposals beside retinanet:",
        ),
        ({"input": ["31x31"], "neck": ["fpn"]}, "(the first: input: expected at least 128 pixels a side"),
        ({"neck": [{"fpn": {f: list(range(1000)) for f in "abcdef"}}]}, "expected at most 200000 combinations"),
    ],
)  # fmt: skip
def test_refusals_name_the_list_and_the_entry(choices: Any, message: str) -> None:
    assert message in refusal(choices)


def test_a_space_too_large_to_enumerate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structural, "MAX_COMBINATIONS", 18_059)
    assert refusal({}) == "space: expected at most 18059 combinations, got 18060; shorten the lists"


def test_combinations_that_are_not_valid_are_left_out() -> None:
    necks = ["fpn", "fpn(levels=3-4-5)"]
    space = StructuralSpace.from_choices({**ONE, "neck": necks, "input": ["512x512", "64x64"]})
    first, *others = (format_detector(spec) for spec in space.all())
    assert first == "resnet18/fpn/retinanet@512x512"
    assert others == [f"resnet18/fpn(levels=3-4-5)/retinanet@{size}" for size in ("512x512", "64x64")]


def test_a_space_of_one_has_no_neighbours() -> None:
    space = StructuralSpace.from_choices(ONE)
    only = next(space.all())
    assert list(space.neighbours(only)) == []
    assert space.mutate(only, np.random.default_rng(0)) == only


def test_a_listed_choice_that_no_combination_takes_is_refused() -> None:
    """A default one, which nobody listed, is left out in silence."""
    found = refusal({"head": ["retinanet", "fcos"], "proposals": ["none", "rpn"]})
    assert found.startswith(
        "space.proposals choice 2: expected a choice that is valid beside some of the others, got 'rpn'"
    )
    assert "proposals beside retinanet" in found
    assert "at least 32 pixels a side" in refusal({"input": ["512x512", "8x8"]})
    small = StructuralSpace.from_choices({"input": ["32x32"]})
    assert small.size() == (1 + 5) * 7 * 9
    assert len(small.to_choices()["neck"]) == 1 + 5
    one_stage = StructuralSpace.from_choices({"head": ["fcos"]})
    assert one_stage.to_choices()["proposals"] == ["none"]
    two_stages = StructuralSpace.from_choices({"head": ["2fc"]})
    assert two_stages.to_choices()["proposals"] == ["rpn", "ga_rpn"]
    assert two_stages == StructuralSpace.from_choices(two_stages.to_choices())


def test_a_parent_from_outside_is_brought_back_where_one_change_suffices() -> None:
    """A space may be narrowed while its study goes on."""
    space = StructuralSpace.from_choices({**ONE, "input": ["512x512", "256x256"]})
    near = parse_detector("resnet34/fpn/retinanet@256x256")
    assert [format_detector(spec) for spec in space.neighbours(near)] == ["resnet18/fpn/retinanet@256x256"]
    far = parse_detector("resnet34/fpn/retinanet/gn@256x256")
    assert space.mutate(far, np.random.default_rng(0)) == far


def test_a_space_of_the_papers_size_is_quick() -> None:
    """10,836 members; limits some ten times what it takes, so that only a change of kind fails."""
    begin = time.process_time()
    space = StructuralSpace.from_choices({})
    assert space.size() == 10_836
    rng = np.random.default_rng(0)
    spec = space.sample(rng)
    built = time.process_time()
    assert built - begin < 1.5
    for _ in range(1000):
        spec = space.mutate(spec, rng)
    assert time.process_time() - built < 1.0
