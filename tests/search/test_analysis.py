from __future__ import annotations

import json
import math

import pytest

from detsearch.arch.spaces.structures import StructuresSpace, read_modular
from detsearch.search.analysis import analyse
from detsearch.search.objective import Objective
from detsearch.search.trial import Trial, TrialState
from tests.report.fakes import OBJECTIVES, study, trial

INSIDE = (Objective("ap", True), Objective("macs", False))
STRUCTURES = (
    "basicblock_8_1-21-21-21/fpn(levels=3-4-5,width=16)/retinanet(depth=1)@64x64",
    "basicblock_8_1-21-21-21/fpn(levels=4-5,width=16)/retinanet(depth=1)@96x96",
)
REST = (
    "fpn(levels=3-4-5,width=16)/retinanet(depth=1)/gn_ws@64x64",
    "fpn(levels=4-5,width=16)/retinanet(depth=1)/gn_ws@96x96",
)


def space() -> StructuresSpace:
    found = read_modular({"structures": list(STRUCTURES), "base": [8], "width": [16], "spread": [0.01, 100.0]})
    assert isinstance(found, StructuresSpace)
    return found


def variants() -> list[Trial]:
    """Of the first structure, deeper is better; of the second, worse. An early doubling is the best of all."""
    stages = ("2-2-2-1", "21-2-2-1", "211-2-2-1", "2111-2-2-1", "21111-2-2-1")
    first = [(f"basicblock_8_{code}/{REST[0]}", 0.30 + 0.01 * i) for i, code in enumerate(stages)]
    second = [(f"basicblock_8_{code}/{REST[1]}", 0.60 - 0.01 * i) for i, code in enumerate(stages)]
    return [
        trial(number, ap, 5.0, code=code, macs=10**9 * (number % 5 + 1))
        for number, (code, ap) in enumerate((*first, *second))
    ]


def test_planted_depth_is_found_by_structure() -> None:
    parts = dict(zip(STRUCTURES, space().parts, strict=True))
    found = analyse(variants(), INSIDE, parts, inside=True)
    assert found is not None
    groups = {(group.kind, group.structure): group for group in found.groups}
    assert set(groups) == {(kind, name) for kind in ("all", "front") for name in (None, *STRUCTURES)}
    depth = {key: group.correlations["depth"].spearman for key, group in groups.items()}
    first, second = depth["all", STRUCTURES[0]], depth["all", STRUCTURES[1]]
    assert first is not None
    assert second is not None
    assert (first.value, second.value) == (pytest.approx(1), pytest.approx(-1))
    whole = groups["all", None].correlations["depth"]
    assert whole.count == 10
    assert whole.spearman is not None
    assert abs(whole.spearman.value) < 0.5
    # On the front of the first structure all five stand, of the second only the cheapest.
    assert groups["front", STRUCTURES[0]].trials == (0, 1, 2, 3, 4)
    assert groups["front", STRUCTURES[1]].trials == (5,)
    assert groups["front", None].trials == (5,)
    assert groups["front", None].correlations["depth"].reason == "fewer than 4 trials"
    assert groups["all", None].correlations["width"].reason == "it is the same in all"
    assert found.importances == ()
    assert found.effects == {}


def test_a_search_of_structures_has_importances() -> None:
    trials = study(60)
    found = analyse(trials, OBJECTIVES)
    assert found is not None
    complete = [t for t in trials if t.state is TrialState.COMPLETE]
    assert found.trials == len(complete)
    assert [importance.figure for importance in found.importances] == ["ap", "latency_ms"]
    assert {"input", "backbone", "neck levels", "neck width", "head"} <= set(found.importances[0].shares)
    share = found.importances[0].shares["input"].alone
    assert share is not None
    assert share.mean > 0.1, "larger inputs have more MACs, and those make AP"
    assert sum(effect.trials for effect in found.effects["input"]) == len(complete)
    assert [group.kind for group in found.groups] == ["all", "front"]


def test_plain_values_have_no_nan() -> None:
    for trials in (study(40), [trial(0, 0.3, 5.0)], variants()):
        found = analyse(trials, OBJECTIVES)
        assert found is not None
        text = json.dumps(found.to_json(), allow_nan=False)
        assert json.loads(text)["factors"]["depth"] == "blocks of the backbone"


@pytest.mark.parametrize("trials", [[], [trial(0, None, 5.0, state=TrialState.FAILED)], [trial(0, math.nan, 5.0)]])
def test_nothing_complete_nothing_said(trials: list[Trial]) -> None:
    assert analyse(trials, OBJECTIVES) is None


def test_only_the_highest_fidelity_counts() -> None:
    trials = [trial(number, 0.1 * number, 5.0, epochs=12 if number else 3) for number in range(6)]
    found = analyse(trials, OBJECTIVES)
    assert found is not None
    assert (found.trials, found.epochs) == (5, 12)


def test_backbones_without_a_code_are_left_out_and_named() -> None:
    swin = "timm(model=swin_tiny_patch4_window7_224)/fpn(width=8)/retinanet@128x128"
    found = analyse([trial(0, 0.3, 5.0), trial(1, 0.4, 6.0, code=swin)], OBJECTIVES)
    assert found is not None
    assert found.without_code == {1: "swin_tiny_patch4_window7_224 has no block code"}
    assert found.groups[0].trials == (0,)
    alone = analyse([trial(1, 0.4, 6.0, code=swin)], OBJECTIVES)
    assert alone is not None
    assert alone.groups == ()


def test_without_a_maximised_objective_ap_is_looked_at() -> None:
    found = analyse([trial(i, 0.1 * i, 5.0 + i) for i in range(4)], (Objective("latency_ms", False),))
    assert found is not None
    assert found.accuracy == "ap"
    assert [importance.figure for importance in found.importances] == ["ap", "latency_ms"]
