"""A search of a head's cells, from a recipe to a detector that can be trained."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from detsearch.arch.cells import SETS, CellSpec
from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.head_cells import with_tower
from detsearch.arch.presets import resolve
from detsearch.data.dataset import Dataset
from detsearch.data.halves import halves
from detsearch.errors import CheckpointError, DataError, RecipeError, SpecError, StudyError, TrainingError
from detsearch.report.heads import write_head_report
from detsearch.runs.compare import runs_of
from detsearch.runs.data import load_split
from detsearch.runs.heads import DETECTOR, FOUND, TRAIN, HeadFound, search_head
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import CompareRecipe, HeadSearchRecipe, TrainRecipe
from detsearch.runs.train import train_recipe
from detsearch.search.trial import TrialInterrupted
from detsearch.supernet.bilevel import Bilevel
from detsearch.supernet.detector import widths_of
from detsearch.supernet.search import LOG, STATE
from detsearch.training import log as logs
from detsearch.training.progress import SilentProgress

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
    facts = json.loads((out / FOUND).read_text())
    assert facts == json.loads(json.dumps(found.facts))
    assert facts["detector"] == text
    assert {name: facts[name] for name in ("method", "transformations", "repeats", "widths", "costs")} == {
        "method": "search",
        "transformations": 4,
        "repeats": 1,
        "widths": {"boxes": 8, "classes": 8},
        "costs": {},
    }
    assert facts["rates"] == [{"iteration": 0, "lr": 0.004, "alpha_lr": 3e-4}]
    assert facts["settings"]["operations"] == "rf5"
    assert facts["search_seconds"] > 0
    assert facts["search_peak_bytes"] > 1 << 20
    assert [line["iteration"] for line in logs.read(out / LOG)] == [1, 2, 3, 4]
    training = load_recipe(TrainRecipe, out / TRAIN, ["training.epochs=1", "training.batch=4"])
    assert resolve(training.detector) == found.spec
    assert train_recipe(training, tmp_path / "trained")["code"] == text

    # It is over: nothing is searched again, whatever is set that it does not depend on.
    state = (out / STATE).read_bytes()
    again = search_head(recipe(data_file, "cells.log_steps=3", "training.epochs=7", "cells.workers=0"), out)
    assert again.cells == found.cells
    assert (out / STATE).read_bytes() == state
    for name in ("search_seconds", "search_peak_bytes", "rates"):
        assert again.facts[name] == facts[name]


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


def test_an_interrupted_search_goes_on_with_the_costs_that_it_measured(
    tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement is never the same twice."""
    calls = count(1)

    def measured(operations: tuple[str, ...], *_: Any, **__: Any) -> Tensor:
        drift = next(calls)
        return torch.tensor([drift * (k + 1.0) for k in range(len(operations))] + [0.0])

    monkeypatch.setattr("detsearch.runs.heads.latencies", measured)
    priced = ("cells.cost=latency", "cells.cost_weight=0.5", "cells.alpha_lr=0.01")
    whole = search_head(recipe(data_file, *priced), tmp_path / "whole")
    assert {group: costs["std1"] for group, costs in whole.facts["costs"].items()} == {"boxes": 1, "classes": 2}
    calls = count(1)
    with monkeypatch.context() as patch:
        done = count(1)
        patch.setattr("detsearch.runs.interrupt.Stop.requested", lambda _: next(done) == 3)
        with pytest.raises(TrialInterrupted, match="after iteration 3"):
            search_head(recipe(data_file, *priced), tmp_path / "parts")
    for _ in ("goes on", "has ended"):
        found = search_head(recipe(data_file, *priced), tmp_path / "parts")
        assert found.facts["costs"] == whole.facts["costs"]
        assert [c.record() for c in found.history] == [c.record() for c in whole.history]
    assert next(calls) == 3, "measured once for each group, when the search began"


def test_it_is_searched_at_its_own_size(tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And trained at the detector's."""
    sizes: list[tuple[int, ...]] = []
    step = Bilevel.weights_step

    def watched(self: Bilevel, batch: Any) -> dict[str, float]:
        sizes.append(tuple(batch[0].pixels.shape[2:]))
        return step(self, batch)

    monkeypatch.setattr(Bilevel, "weights_step", watched)
    found = search_head(recipe(data_file, "cells.input=32x32", "cells.iterations=1"), tmp_path / "out")
    assert sizes == [(32, 32)]
    assert load_recipe(TrainRecipe, tmp_path / "out" / TRAIN).detector == format_detector(found.spec)
    assert str(found.spec.input) == "64x64"
    with pytest.raises(StudyError, match="got another run's"):
        search_head(recipe(data_file, "cells.input=96x96", "cells.iterations=1"), tmp_path / "out")


def test_progress_tells_the_current_cells(tmp_path: Path, data_file: Path) -> None:
    said: list[str] = []

    class Told(SilentProgress):
        def say(self, message: str) -> None:
            said.append(message)

    found = search_head(recipe(data_file), tmp_path, progress=Told())
    cells = [{group: str(cell) for group, cell in look.cells.items()} for look in found.history]
    lines = [next(line for line in said if line.startswith(f"iteration {n}, lr")) for n in (2, 4)]
    for line, look in zip(lines, cells, strict=True):
        assert "entropy boxes" in line
        assert f"now boxes {look['boxes']}; classes {look['classes']}" in line


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


@pytest.mark.parametrize("operations", SETS)
def test_random_cells_of_every_set(tmp_path: Path, data_file: Path, operations: str) -> None:
    """Nothing is shared where nothing is searched."""
    found = search_head(recipe(data_file, "cells.method=random", f"cells.operations={operations}"), tmp_path)
    assert list(found.cells) == ["boxes", "classes"]
    chosen = {edge.operation for cell in found.cells.values() for edges in cell.nodes for edge in edges}
    assert chosen <= set(SETS[operations])
    assert found.facts["transformations"] == len(SETS[operations])
    assert found.facts["search_seconds"] is found.facts["search_peak_bytes"] is None


def test_random_cells(tmp_path: Path, data_file: Path) -> None:
    found = search_head(recipe(data_file, "cells.method=random", "cells.operations=sep"), tmp_path / "0")
    assert not found.history
    operations = {edge.operation for cell in found.cells.values() for edges in cell.nodes for edge in edges}
    assert all(token.startswith("sep") for token in operations)
    page = write_head_report(tmp_path / "0", found).read_text()
    assert row("Operations", "sep (6)") in page
    assert row("Choice", "random") in page
    assert "Sharing" not in page, "nothing was searched"
    other = search_head(recipe(data_file, "cells.method=random", "cells.operations=sep", "seed=1"), tmp_path / "1")
    assert other.cells != found.cells


def test_no_cells(tmp_path: Path, data_file: Path) -> None:
    plain = f"{BODY}/fpn(levels=4-5,width=8)/fcos(depth=1)@64x64"
    found = search_head(recipe(data_file, "cells.method=none", "cells.input=8x8", detector=plain), tmp_path)
    assert found.spec == parse_detector(plain), "nothing is searched, at any size"
    assert not found.cells
    assert load_recipe(TrainRecipe, tmp_path / TRAIN).detector == plain
    assert "Operations" not in write_head_report(tmp_path, found).read_text()
    assert (found.facts["transformations"], found.facts["widths"]) == (None, {})


def test_no_cells_in_a_head_without_a_place_for_them(tmp_path: Path, data_file: Path) -> None:
    plain = f"{BODY}/fpn(levels=4-5,width=8)/rpn/2fc(width=8)@64x64"
    found = search_head(recipe(data_file, "cells.method=none", detector=plain), tmp_path)
    assert "<h1>" in write_head_report(tmp_path, found).read_text()


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
        with pytest.raises(StudyError, match="got another run's"):
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
        line = (
            "^iteration 4, architecture step: alpha of boxes is not finite, .*; lower alpha_lr and repeat the command: "
        )
        with pytest.raises(TrainingError, match=f"{line}it goes on after iteration 2$"):
            search_head(recipe(data_file), tmp_path)
    assert torch.load(tmp_path / STATE, weights_only=True)["iteration"] == 2
    with pytest.raises(StudyError, match=r"cells\.alpha_lr 0\.0003 as in the search in it, or a lower one, got 0\.1"):
        search_head(recipe(data_file, "cells.alpha_lr=0.1"), tmp_path)
    lower = recipe(data_file, "cells.alpha_lr=0.0001", "cells.lr=0.002")
    found = search_head(lower, tmp_path)
    assert [look.iteration for look in found.history] == [2, 4]
    assert found.facts["rates"] == [
        {"iteration": 0, "lr": 0.004, "alpha_lr": 0.0003},
        {"iteration": 2, "lr": 0.002, "alpha_lr": 0.0001},
    ]
    assert [line["alpha_lr"] for line in logs.read(tmp_path / LOG)] == [0.0003] * 2 + [0.0001] * 2
    assert "from iteration 2 on" in write_head_report(tmp_path, found).read_text()
    with pytest.raises(StudyError, match=r"cells\.lr 0\.002 as in the search in it, which has ended, got 0\.001"):
        search_head(recipe(data_file, "cells.alpha_lr=0.0001", "cells.lr=0.001"), tmp_path)
    assert search_head(lower, tmp_path).facts["rates"] == found.facts["rates"]


@pytest.mark.parametrize(
    ("settings", "detector", "error", "message"),
    [
        (("cells.batch=64",), ONE_STAGE, DataError, "two halves of 64 images or more"),
        ((), f"{BODY}/fpn(levels=4-5,width=8)/rpn/2fc(width=8)@64x64", SpecError, "head"),
        (("cells.operations=darts",), ONE_STAGE, RecipeError, "sharing: none"),
        (
            ("cells.frozen_stages=1",),
            ONE_STAGE,
            RecipeError,
            r"^cells\.frozen_stages: expected 0 where training begins",
        ),
        (("cells.frozen_stages=9",), ONE_STAGE, RecipeError, r"^cells\.frozen_stages: expected 0 to 5, .*, got 9$"),
        (
            ("training.frozen_stages=9",),
            ONE_STAGE,
            RecipeError,
            r"^training\.frozen_stages: expected 0 to 5, .*, got 9$",
        ),
        (("cells.operations=all",), ONE_STAGE, RecipeError, "cells.operations"),
        (("cells.cost_weight=1e39",), ONE_STAGE, RecipeError, r"cells\.cost_weight: .*1000000"),
        (("cells.input=64",), ONE_STAGE, RecipeError, r"cells\.input"),
        (
            ("cells.input=31x64",),
            ONE_STAGE,
            SpecError,
            r"^cells\.input: expected at least 32 pixels a side, .* got 31x64$",
        ),
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
    assert not (tmp_path / "out").exists(), "so that the command, corrected, is not another search there"


def test_a_class_that_is_missing_in_a_half_is_told(tmp_path: Path, data_file: Path) -> None:
    few = yaml.safe_load(data_file.read_text())
    few["splits"]["train"]["images"] = 2
    data_file.write_text(yaml.safe_dump(few))
    images = load_split(str(data_file), "train")
    told: list[str] = []
    search_head(recipe(data_file, "cells.batch=1", "cells.iterations=1"), tmp_path / "out", warn=told.append)
    expected = []
    for name, half in zip(("architecture", "weights"), halves(images, 0, least=1), strict=True):
        there = {images.classes[label] for record in half.records for label in record.labels}
        if missing := [one for one in images.classes if one not in there]:
            expected.append(f"the half of the {name} has no object of {', '.join(missing)}")
    assert expected
    assert told == expected
    told.clear()
    for method in ("none", "random"):
        search_head(recipe(data_file, f"cells.method={method}"), tmp_path / method, warn=told.append)
    assert told == [], "nothing is searched"


def test_halves_that_share_an_image_are_not_searched(
    tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(dataset: Dataset, *_: int, **__: int) -> tuple[Dataset, Dataset]:
        return dataset.subset(range(5)), dataset.subset(range(4, 8))

    monkeypatch.setattr("detsearch.runs.heads.halves", wrong)
    with pytest.raises(AssertionError, match="no image is in both halves"):
        search_head(recipe(data_file), tmp_path / "out")
    assert not (tmp_path / "out" / STATE).exists()


def test_recipes_of_the_project_have_heads_that_can_be_searched() -> None:
    folder = Path(__file__).resolve().parents[2] / "recipes"
    paths = sorted(folder.glob("head*.yaml"))
    assert len(paths) > 3
    searched = 0
    for path in paths:
        if " detsearch compare " in path.read_text().partition("\n")[0]:
            runs = runs_of(load_recipe(CompareRecipe, path))
        else:
            runs = {path.name: load_recipe(HeadSearchRecipe, path)}
        for name, run in runs.items():
            network = resolve(run.detector).network  # type: ignore[attr-defined]
            if isinstance(run, HeadSearchRecipe) and run.cells.method != "none":
                searched += 1
                assert widths_of(with_tower(network)), f"{path}: {name}"
                assert run.cells.method == "random" or run.cells.supernet.operations
    assert searched > 10


def row(label: str, value: str) -> str:
    """One of the report's facts."""
    return f'<tr><th scope="row">{label}</th><td>{value}</td></tr>'


OTHER = ("cells.operations=std", "cells.sharing=none", "cells.gradient=second", "cells.cells=2", "cells.batch=3")


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ((), ("rf5 (4)", "decoupled", "first", "1", "2", "64x64", "0")),
        (
            (*OTHER, "cells.input=32x64", "cells.cost_weight=0.5"),
            ("std (6)", "none", "second", "2", "3", "32x64", "0.5 (macs)"),
        ),
    ],
    ids=["plain", "other"],
)
def test_the_report_says_what_was_searched(
    tmp_path: Path, data_file: Path, settings: tuple[str, ...], values: tuple[str, ...]
) -> None:
    found = search_head(recipe(data_file, "cells.iterations=1", *settings), tmp_path)
    page = write_head_report(tmp_path, found).read_text()
    labels = ("Operations", "Sharing", "Order of alpha&#39;s gradient", "Cells in a group", "Images per step")
    for label, value in zip((*labels, "Input while searching", "Weight of the cells&#39; cost"), values, strict=True):
        assert row(label, value) in page


def test_the_report_shows_the_cells(tmp_path: Path, data_file: Path) -> None:
    found: HeadFound = search_head(recipe(data_file), tmp_path)
    page = write_head_report(tmp_path, found).read_text()
    for cell in found.cells.values():
        assert str(cell) in page
    assert page.count("<svg") == 3, "two cells and the entropies"
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", ""), "loads nothing"
    assert f"detsearch train --recipe {tmp_path}/{TRAIN}" in page
