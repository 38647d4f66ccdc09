"""A search of a head's cells, from a recipe to a detector that can be trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from detsearch.arch.cells import CellSpec
from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.presets import resolve
from detsearch.errors import CheckpointError, DataError, RecipeError, SpecError, StudyError, TrainingError
from detsearch.report.heads import write_head_report
from detsearch.runs.heads import DETECTOR, FOUND, TRAIN, HeadFound, search_head
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import HeadSearchRecipe, TrainRecipe
from detsearch.runs.train import train_recipe
from detsearch.search.trial import TrialInterrupted
from detsearch.supernet.bilevel import Bilevel
from detsearch.supernet.search import LOG, STATE
from detsearch.training import log as logs

BODY = "basicblock_4_1-1-2-2"
ONE_STAGE = f"{BODY}/fpn(levels=4-5,width=8)/fcos(tower=cells(width=8,repeats=1))@64x64"
MASKS = f"{BODY}/fpn(levels=3-4-5,width=8)/rpn(keep=10)/2fc(width=8,mask=mask(tower=cellgroup(width=8)))@64x64"


def recipe(data_file: Path | str, *settings: str, detector: str = ONE_STAGE) -> HeadSearchRecipe:
    small = ("cells.iterations=4", "cells.check=2", "cells.batch=2", "cells.log_steps=1", "cells.operations=rf5")
    options = {"detector": detector, "data.file": str(data_file), "device": "cpu"}
    return load_recipe(HeadSearchRecipe, None, [*small, "cells.stop=false", "data.val=train", *settings], options)


def test_from_recipe_to_a_detector_that_trains(tmp_path: Path, data_file: Path) -> None:
    out = tmp_path / "head"
    found = search_head(recipe(data_file), out)
    assert [choice.iteration for choice in found.history] == [2, 4]
    assert dict(found.history[-1].cells) == dict(found.cells)
    text = format_detector(found.spec)
    assert parse_detector(text) == found.spec
    assert resolve(str(out / DETECTOR)) == found.spec
    assert json.loads((out / FOUND).read_text())["detector"] == text
    assert [line["iteration"] for line in logs.read(out / LOG)] == [1, 2, 3, 4]
    training = load_recipe(TrainRecipe, out / TRAIN, ["training.epochs=1", "training.batch=4"])
    assert resolve(training.detector) == found.spec
    assert train_recipe(training, tmp_path / "trained")["code"] == text

    # It is over: nothing is searched again, whatever is set that it does not depend on.
    state = (out / STATE).read_bytes()
    again = search_head(recipe(data_file, "cells.log_steps=3", "training.epochs=7", "cells.workers=0"), out)
    assert again.cells == found.cells
    assert (out / STATE).read_bytes() == state


@pytest.mark.parametrize(
    ("detector", "stop_after"), [(ONE_STAGE, 1), (ONE_STAGE, 2), (ONE_STAGE, 3), (MASKS, 1), (MASKS, 2)]
)
def test_an_interrupted_search_ends_as_if_it_had_not_been(
    tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch, detector: str, stop_after: int
) -> None:
    """That of a mask branch too, whose losses are of regions that are drawn at random."""
    whole = search_head(recipe(data_file, detector=detector), tmp_path / "whole")
    done: list[int] = []
    monkeypatch.setattr("detsearch.runs.interrupt.Stop.requested", lambda self: len(done) == stop_after)
    step = Bilevel.weights_step

    def counted(self: Bilevel, batch: Any) -> dict[str, float]:
        done.append(self.iteration)
        return step(self, batch)

    monkeypatch.setattr(Bilevel, "weights_step", counted)
    with pytest.raises(TrialInterrupted, match=f"after iteration {stop_after}"):
        search_head(recipe(data_file, detector=detector), tmp_path / "parts")
    found = search_head(recipe(data_file, detector=detector), tmp_path / "parts")
    assert len(done) == 4
    assert [c.record() for c in found.history] == [c.record() for c in whole.history]
    first, second = (torch.load(tmp_path / name / STATE, weights_only=True) for name in ("whole", "parts"))
    for name, tensor in first["weights"].items():
        assert torch.equal(tensor, second["weights"][name]), name


def test_the_seed_decides(tmp_path: Path, data_file: Path) -> None:
    records = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        found = search_head(recipe(data_file, f"seed={seed}"), tmp_path / name)
        records.append([choice.record() for choice in found.history])
    assert records[0] == records[1] != records[2]


def test_a_search_stops_when_two_looks_see_the_same(tmp_path: Path, data_file: Path) -> None:
    changes = ("cells.stop=true", "cells.iterations=40", "cells.check=1", "cells.alpha_lr=1e-9")
    found = search_head(recipe(data_file, *changes), tmp_path)
    assert [choice.iteration for choice in found.history] == [1, 2]


def test_the_cost_turns_the_choice(tmp_path: Path, data_file: Path) -> None:
    """With a great weight on it, the cheapest operation is chosen everywhere."""
    much = ("cells.cost_weight=1000", "cells.alpha_lr=0.5", "cells.iterations=8", "cells.operations=full")
    found = search_head(recipe(data_file, *much), tmp_path)
    operations = {edge.operation for cell in found.cells.values() for edges in cell.nodes for edge in edges}
    assert operations == {"sep1"}


@pytest.mark.parametrize(
    "settings",
    [
        ("cells.sharing=direct",),
        ("cells.sharing=none", "cells.operations=darts"),
        ("cells.gradient=second",),
        ("cells.cost=latency", "cells.cost_weight=0.1"),
        ("cells.cells=2", "cells.clip_norm=null"),
    ],
)
def test_variants(tmp_path: Path, data_file: Path, settings: tuple[str, ...]) -> None:
    found = search_head(recipe(data_file, "cells.iterations=2", *settings), tmp_path)
    assert set(found.cells) == {"boxes", "classes"}


def test_random_cells(tmp_path: Path, data_file: Path) -> None:
    found = search_head(recipe(data_file, "cells.method=random", "cells.operations=sep"), tmp_path / "0")
    assert not found.history
    operations = {edge.operation for cell in found.cells.values() for edges in cell.nodes for edge in edges}
    assert all(token.startswith("sep") for token in operations)
    other = search_head(recipe(data_file, "cells.method=random", "cells.operations=sep", "seed=1"), tmp_path / "1")
    assert other.cells != found.cells
    assert write_head_report(tmp_path / "0", found).exists()


def test_no_cells(tmp_path: Path, data_file: Path) -> None:
    plain = f"{BODY}/fpn(levels=4-5,width=8)/fcos(depth=1)@64x64"
    found = search_head(recipe(data_file, "cells.method=none", detector=plain), tmp_path)
    assert found.spec == parse_detector(plain)
    assert not found.cells
    assert load_recipe(TrainRecipe, tmp_path / TRAIN).detector == plain
    assert write_head_report(tmp_path, found).exists()


def test_the_cells_of_a_mask_branch(tmp_path: Path, data_file: Path) -> None:
    """To a detector with mask AP."""
    found = search_head(recipe(data_file, "cells.iterations=2", detector=MASKS), tmp_path / "head")
    assert set(found.cells) == {"mask"}
    assert isinstance(found.cells["mask"], CellSpec)
    assert str(found.cells["mask"]) in format_detector(found.spec)
    page = write_head_report(tmp_path / "head", found).read_text()
    assert str(found.cells["mask"]) in page
    training = load_recipe(TrainRecipe, tmp_path / "head" / TRAIN, ["training.epochs=1", "training.batch=4"])
    assert "mask_ap" in train_recipe(training, tmp_path / "trained")["scores"]["train"]


def test_another_search_in_the_folder_is_refused(tmp_path: Path, data_file: Path) -> None:
    search_head(recipe(data_file), tmp_path / "head")
    for change in ("cells.operations=rf7", "seed=1", "cells.iterations=5"):
        with pytest.raises(StudyError, match="another search's"):
            search_head(recipe(data_file, change), tmp_path / "head")
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "checkpoint.pt").touch()
    with pytest.raises(StudyError, match=r"with a checkpoint\.pt and no recipe\.yaml"):
        search_head(recipe(data_file), tmp_path / "trained")


def test_a_state_of_another_space_is_refused(tmp_path: Path, data_file: Path) -> None:
    search_head(recipe(data_file), tmp_path / "a")
    search_head(recipe(data_file, "cells.operations=rf7"), tmp_path / "b")
    (tmp_path / "b" / STATE).write_bytes((tmp_path / "a" / STATE).read_bytes())
    with pytest.raises(CheckpointError, match=r"cells\.operations rf7 as in the search .* got rf5"):
        search_head(recipe(data_file, "cells.operations=rf7"), tmp_path / "b")
    (tmp_path / "b" / STATE).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="a detsearch cell search"):
        search_head(recipe(data_file, "cells.operations=rf7"), tmp_path / "b")


def test_alpha_that_stops_being_finite_loses_nothing(
    tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Bilevel.architecture_step

    def broken(self: Bilevel, batch: Any, training: Any = None) -> dict[str, float]:
        if self.iteration == 3:
            with torch.no_grad():
                next(iter(self.architecture.parameters())).fill_(float("nan"))
        return look(self, batch, training)

    with monkeypatch.context() as patch:
        patch.setattr(Bilevel, "architecture_step", broken)
        with pytest.raises(TrainingError, match="iteration 4"):
            search_head(recipe(data_file), tmp_path)
    assert torch.load(tmp_path / STATE, weights_only=True)["iteration"] == 2
    assert search_head(recipe(data_file), tmp_path).history[-1].iteration == 4


@pytest.mark.parametrize(
    ("settings", "detector", "error", "message"),
    [
        (("cells.batch=64",), ONE_STAGE, DataError, "two halves of 64 images or more"),
        ((), f"{BODY}/fpn(levels=4-5,width=8)/rpn/2fc(width=8)@64x64", SpecError, "head"),
        (("cells.operations=darts",), ONE_STAGE, RecipeError, "sharing: none"),
        (("cells.operations=all",), ONE_STAGE, RecipeError, "cells.operations"),
        ((), "resnet18/fpn/fcos(tower=cells(boxes=std9(0)))@64x64", SpecError, "std9"),
    ],
)
def test_what_cannot_be_is_refused_before_time_is_spent(
    tmp_path: Path,
    data_file: Path,
    settings: tuple[str, ...],
    detector: str,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        search_head(recipe(data_file, *settings, detector=detector), tmp_path / "out")
    assert not (tmp_path / "out" / STATE).exists()


def test_a_class_that_is_missing_in_a_half_is_told(tmp_path: Path, data_file: Path) -> None:
    few = yaml.safe_load(data_file.read_text())
    few["splits"]["train"]["images"] = 2
    data_file.write_text(yaml.safe_dump(few))
    told: list[str] = []
    search_head(recipe(data_file, "cells.batch=1", "cells.iterations=1"), tmp_path / "out", warn=told.append)
    assert any(re.match("the half of the (architecture|weights) has no object of [a-z]+", line) for line in told)


def test_the_report_shows_the_cells(tmp_path: Path, data_file: Path) -> None:
    found: HeadFound = search_head(recipe(data_file), tmp_path)
    page = write_head_report(tmp_path, found).read_text()
    for cell in found.cells.values():
        assert str(cell) in page
    assert page.count("<svg") == 3, "two cells and the entropies"
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", ""), "loads nothing"
    assert f"detsearch train --recipe {tmp_path}/{TRAIN}" in page
