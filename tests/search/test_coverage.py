"""What a first generation shows of a space."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.modular import ModularSpace
from detsearch.arch.spaces.structural import StructuralSpace
from detsearch.arch.spec import SLOTS, DetectorSpec
from detsearch.search import coverage
from detsearch.search.coverage import TRIES, Coverage, Opening
from detsearch.search.evolution import Evolution
from detsearch.search.trial import RANDOM, Trial, TrialState, proposal_rng
from tests.search.toy import FIDELITY, OBJECTIVES

PARTS: dict[str, list[Any]] = {
    "backbone": [f"basicblock_{width}_1-21-21-21" for width in (8, 16, 24, 32, 40)],
    "neck": ["none", *({"fpn": {"levels": [levels], "width": [64]}} for levels in ("3-4-5", "4-5-6", "2-3", "5"))],
    "head": [f"retinanet(depth={depth})" for depth in (1, 2, 3)],
    "norm": ["bn", "gn", "gn_ws"],
    "input": ["128x128", "192x192", "256x256"],
}


def first_members(space: Space, count: int, seed: int, lost: Iterable[int] = ()) -> list[Trial]:
    """The first proposals of a study in which the trials `lost` are pruned."""
    strategy = Evolution(space=space, objectives=OBJECTIVES, initial=count)
    trials: list[Trial] = []
    for number in range(count):
        proposal = strategy.propose(trials, [], proposal_rng(seed, number))
        assert proposal is not None
        state = TrialState.PRUNED if number in lost else TrialState.COMPLETE
        trials.append(
            Trial(
                number=number,
                code=format_detector(proposal.spec),
                spec=proposal.spec,
                state=state,
                fidelity=FIDELITY,
                seed=0,
                origin=proposal.origin,
            )
        )
    return trials


def choices(spec: DetectorSpec) -> dict[str, object]:
    return {**{slot: spec.network.part(slot) for slot in SLOTS}, "norm": spec.network.norm, "input": spec.input}


def counts(specs: Iterable[DetectorSpec]) -> dict[str, Counter[object]]:
    found: dict[str, Counter[object]] = {}
    for spec in specs:
        for part, choice in choices(spec).items():
            found.setdefault(part, Counter())[choice] += 1
    return found


@given(
    taken=st.fixed_dictionaries({name: st.integers(1, len(values)) for name, values in PARTS.items()}),
    count=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_every_choice_occurs_and_as_evenly_as_the_number_allows(taken: dict[str, int], count: int, seed: int) -> None:
    """Where all combinations are valid: the counts of any two choices for a part differ by one at most."""
    space = StructuralSpace.from_choices({name: PARTS[name][:number] for name, number in taken.items()})
    members = [t.spec for t in first_members(space, min(count, space.size()), seed)]
    assert len(set(members)) == len(members)
    every = counts(space.all())
    for part, found in counts(members).items():
        assert len(found) == min(len(every[part]), len(members))
        # Where few combinations are left, evenness must give way.
        if 8 * len(members) <= space.size():
            assert max(found.values()) - min(found[choice] for choice in every[part]) <= 1


def test_a_rare_kind_is_not_missed() -> None:
    """One neck in 43 is none, which 8 plain draws would miss four times in five."""
    space = StructuralSpace.from_choices({"head": ["retinanet"], "proposals": ["none"]})
    for seed in range(5):
        found = counts(t.spec for t in first_members(space, 8, seed))
        assert None in found["neck"]
        assert len(found["backbone"]) == len(space.backbones)
        assert len(found["input"]) == 4
        assert len(found["neck"]) == 8


def test_the_first_eight_of_the_papers_space_show_every_kind_of_module_and_every_input() -> None:
    space = StructuralSpace.from_choices({})
    every = counts(space.all())
    for seed in range(3):
        found = counts(t.spec for t in first_members(space, 8, seed))
        assert all(set(found[part]) == set(every[part]) for part in every if part != "neck")
        assert None in found["neck"]
        assert max(found["input"].values()) - min(found["input"].values()) <= 1


def test_a_choice_that_is_always_lost_does_not_hold_up_the_others() -> None:
    space = StructuralSpace.from_choices(PARTS)
    bad = space.inputs[0]
    pool = Coverage(list(space.all()))
    kept: list[DetectorSpec] = []
    lost: list[DetectorSpec] = []
    for number in range(24):
        spec = pool.next(kept, lost, proposal_rng(0, number))
        assert spec is not None
        (lost if spec.input == bad else kept).append(spec)
    assert TRIES <= len(lost) <= 24 / 3 + 1
    assert all(len(found) == len(PARTS[part]) for part, found in counts([*kept, *lost]).items() if part in PARTS)


def test_what_was_lost_comes_again() -> None:
    """Whichever trial is pruned, the members that follow make up for it."""
    space = StructuralSpace.from_choices(PARTS)
    for gone in range(5):
        kept = [t.spec for t in first_members(space, 8, 3, [gone]) if t.state is TrialState.COMPLETE]
        assert all(len(found) == len(PARTS[part]) for part, found in counts(kept).items() if part in PARTS)


def test_the_pool_ends() -> None:
    specs = [parse_detector(f"resnet18/fpn/retinanet@{size}") for size in ("128x128", "256x256")]
    pool = Coverage(specs)
    stranger = parse_detector("resnet18/fpn/retinanet@512x512")
    assert pool.next([specs[0], stranger], [], proposal_rng(0, 0)) == specs[1]
    assert pool.next(specs[:1], specs[1:], proposal_rng(0, 0)) is None


def test_spaces_too_large_to_list_are_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "LISTED", 100)
    space = StructuralSpace.from_choices(PARTS)
    first = first_members(space, 8, 0)
    assert [t.spec for t in first] == [t.spec for t in first_members(space, 8, 0)]
    assert all(len(found) == len(PARTS[part]) for part, found in counts(t.spec for t in first).items() if part in PARTS)


MODULAR = ModularSpace.from_section({"structure": "faster_rcnn_r18_fpn@512x512"})


@given(count=st.integers(1, 10), seed=st.integers(0, 1000))
@example(count=3, seed=103)
@settings(max_examples=8, deadline=None)
def test_the_first_members_inside_a_structure_are_one_from_each_part_of_the_scale(count: int, seed: int) -> None:
    members = [t.spec for t in first_members(MODULAR, count, seed)]
    # The end of the scale, 1, belongs to the last part.
    parts = [min(math.floor(MODULAR.place(spec) * count), count - 1) for spec in members]
    assert sorted(parts) == list(range(count))
    assert all(map(MODULAR.contains, members))


def test_a_part_of_the_scale_that_is_always_lost_does_not_hold_up_the_others() -> None:
    opening = Opening(MODULAR, 4)
    trials: list[Trial] = []
    while (spec := opening.next(trials, [], proposal_rng(3, len(trials)))) is not None:
        lost = MODULAR.place(spec) < 1 / 4
        trials.append(
            Trial(
                number=len(trials),
                code=format_detector(spec),
                spec=spec,
                state=TrialState.PRUNED if lost else TrialState.COMPLETE,
                fidelity=FIDELITY,
                seed=0,
                origin=RANDOM,
            )
        )
    parts = Counter(math.floor(4 * MODULAR.place(t.spec)) for t in trials if t.state is TrialState.COMPLETE)
    assert sorted(parts) == [1, 2, 3]
    assert parts.total() == 4
    assert sum(t.state is TrialState.PRUNED for t in trials) <= TRIES
    assert len({t.spec for t in trials}) == len(trials)


def test_a_small_space_inside_a_structure_is_used_up_without_repetition() -> None:
    slim = "basicblock_16_1-2-2-2/fpn(levels=3-4-5,width=16)/retinanet(depth=1)@64x64"
    tiny = {"base": [14, 16], "width": [16, 24], "depth": 4, "doublings": [1], "spread": [0.001, 1000]}
    space = ModularSpace.from_section({"structure": slim, **tiny})
    members = [t.spec for t in first_members(space, space.size(), 0)]
    assert set(members) == set(space.all())
    assert len(members) == space.size()
