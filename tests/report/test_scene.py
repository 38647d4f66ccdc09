from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detsearch.errors import RecipeError
from detsearch.report.scene import BEYOND_MARK, HUES, axes, growth, log_ticks, scene
from detsearch.report.view import backbone_family, protocols, state_counts
from detsearch.search.objective import Objective
from detsearch.search.trial import TrialState
from tests.report.fakes import OBJECTIVES, study, trial, view

AP, LATENCY, PARAMS = Objective("ap", True), Objective("latency_ms", False), Objective("params", False)


def test_the_cost_lies_on_x_whichever_objective_comes_first() -> None:
    assert axes((AP, LATENCY)) == axes((LATENCY, AP)) == (LATENCY, AP)
    assert axes((PARAMS, LATENCY)) == (LATENCY, PARAMS)
    assert axes((AP,))[1] == AP
    assert axes((AP,))[0].name == "number"


@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(1, 12), st.integers(1, 9)), min_size=1, max_size=12),
    st.sampled_from([(AP, LATENCY), (LATENCY, PARAMS), (AP, Objective("macs", True)), (AP,)]),
)
def test_the_step_line_is_the_best_value_at_every_cost(
    values: list[tuple[int, int, int]], objectives: tuple[Objective, ...]
) -> None:
    trials = [trial(i, ap / 20, float(ms), macs=macs * 10**8) for i, (ap, ms, macs) in enumerate(values)]
    picture = scene(view(trials, objectives=objectives), trials)
    x_sign, y_sign = (-1 if o.maximise else 1 for o in (picture.x, picture.y))
    points = [picture.at(t) for t in trials]
    for (x0, y0), (x1, y1) in zip(picture.step, picture.step[1:], strict=False):
        assert x0 == x1 or y0 == y1, "corners are joined along the axes"
        if x0 != x1:
            middle = (x0 + x1) / 2
            reached = [y for x, y in points if x_sign * x <= x_sign * middle]
            assert y0 == min(reached, key=lambda y: y_sign * y)
    edge = picture.span[0] if picture.x.maximise else picture.span[1]
    assert picture.step[-1][0] == edge


def test_points_of_another_fidelity_or_without_a_value_are_not_drawn_as_compared() -> None:
    trials = [trial(0, 0.3, 5.0), trial(1, 0.9, 1.0, epochs=3), trial(2, math.nan, 4.0), trial(3, 0.2, 6.0)]
    picture = scene(view(trials), trials)
    assert [t.number for t in picture.front] == [0]
    assert [t.number for t in picture.dominated] == [3]
    assert picture.others == []


def test_marks_beyond_the_points_stay_at_the_edge_and_do_not_stretch_the_axis() -> None:
    far = trial(2, None, 500.0, state=TrialState.PRUNED, reason="limit")
    trials = [trial(0, 0.3, 5.0), trial(1, 0.4, 9.0), far]
    picture = scene(view(trials), trials)
    assert picture.span[1] < 10
    assert picture.inside(500.0) == picture.span[1]
    assert picture.mark(far) == BEYOND_MARK


def test_wide_costs_have_a_logarithmic_axis() -> None:
    assert scene(view(t := [trial(0, 0.3, 1.0), trial(1, 0.4, 100.0)]), t).log
    assert not scene(view(t := [trial(0, 0.3, 50.0), trial(1, 0.4, 100.0)]), t).log
    assert log_ticks(0, 2) == [1, 2, 5, 10, 20, 50, 100]


def test_colours_and_symbols_tell_sizes_and_families_apart() -> None:
    picture = scene(view(t := study(60)), t)
    assert len(set(picture.colours.values())) == len(picture.colours) == 4
    areas = [size.width * size.height for size in picture.colours]
    assert areas == sorted(areas)
    assert len({picture.symbol(x) for x in picture.front + picture.dominated}) == len(picture.families) == 3
    assert backbone_family(trial(0, code="mobilenetv2/fpn/retinanet@512x512").spec) == "mobilenetv2"


def test_colours_tell_backbones_apart_where_they_are_few_else_families() -> None:
    few = [
        trial(i, 0.3, 5.0 + i, code=f"{name}/fpn/retinanet@128x128") for i, name in enumerate(("resnet50", "resnet18"))
    ]
    picture = scene(view(few), few)
    assert dict(picture.hues) == {"resnet18": HUES[0], "resnet50": HUES[1]}
    assert [picture.colour(t, "backbone") for t in few] == [HUES[1], HUES[0]]
    assert [picture.colour(t, "input") for t in few] == [picture.colours[few[0].spec.input]] * 2
    assert [entry.name for entry in picture.key("backbone")["Backbone"]] == ["resnet18", "resnet50"]
    assert "Input" not in picture.key("backbone")
    many = [
        trial(i, 0.3, 5.0 + i, code=f"basicblock_{4 + 2 * i}_1-2-2-2/fpn/retinanet@128x128")
        for i in range(len(HUES) + 1)
    ]
    assert list(scene(view(many), many).hues) == ["basicblock"]


def test_known_and_chosen_trials_are_marked_where_they_are_points() -> None:
    trials = [trial(0, 0.3, 5.0), trial(1, 0.4, 9.0), trial(2, None, 7.0, state=TrialState.FAILED)]
    picture = scene(view(trials, known={1: "retinanet_r50_fpn", 2: "gone"}, chosen=frozenset({0})), trials)
    assert [t.number for t in picture.marked(picture.known)] == [1]
    assert [t.number for t in picture.marked(picture.chosen)] == [0]
    assert [entry.name for entry in picture.key()["Marked"]] == ["known detector", "searched inside"]
    assert "Marked" not in scene(view(trials), trials).key()


def test_growth_never_falls_and_ends_at_one() -> None:
    numbers, shares, reference = growth(study(40), OBJECTIVES)
    assert numbers == sorted(numbers)
    assert np.all(np.diff(shares) >= -1e-12)
    assert shares[0] > 0
    assert shares[-1] == 1
    worst = [t.values()["latency_ms"] for t in study(40) if t.state is TrialState.COMPLETE]
    assert reference[1] > max(worst)


@pytest.mark.parametrize("values", [[], [(math.nan, 5.0)], [(0.3, 5.0)], [(0.3, 5.0), (0.3, 5.0)], [(0.0, 5.0)]])
def test_growth_of_degenerate_studies(values: list[tuple[float, float]]) -> None:
    _, shares, _ = growth([trial(i, *v) for i, v in enumerate(values)], OBJECTIVES)
    assert all(share == 1 for share in shares)


def test_a_study_needs_objectives() -> None:
    with pytest.raises(RecipeError):
        view([], objectives=())


def test_state_counts_and_protocols() -> None:
    trials = [
        trial(0, 0.3, 5.0),
        trial(1, state=TrialState.WAITING),
        trial(2, 0.3, 5.0, code="resnet18/fpn/retinanet@416x320"),
    ]
    assert state_counts(trials) == "1 waiting, 2 complete"
    assert state_counts([]) == "none"
    assert len(protocols(trials)) == 1  # the input size is the trial's, not the protocol's
