"""Detectors that were found, taken to other images at one input size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detsearch.arch.code import format_network, parse_detector
from detsearch.arch.presets import resolve
from detsearch.build import build
from detsearch.errors import CheckpointError, RecipeError, StudyError
from detsearch.report.comparison import markdown_comparison
from detsearch.runs.compare import compare, runs_of
from detsearch.runs.comparison import column
from detsearch.runs.found import arm_fields
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import CompareRecipe, SearchRecipe, TrainRecipe
from detsearch.training.checkpoint import Checkpoint, CheckpointMeta, save_checkpoint
from detsearch.types import InputSize
from tests.runs.conftest import FINDING
from tests.runs.made import write_study
from tests.runs.test_compare import recipe

RECIPES = Path(__file__).parents[2] / "recipes"
REST = "fpn(levels=4-5,width=8)/retinanet(depth=1)/gn"
FOUND = (
    f"basicblock_4_1-2-2-2/{REST}@96x96",
    f"basicblock_4_1-2-2-21/{REST}@128x96",
    f"basicblock_8_1-2-2-2/{REST}@96x64",
    f"basicblock_6_1-2-2-2/{REST}@96x64",
)


@pytest.fixture
def study(tmp_path: Path, search_file: Path) -> Path:
    """Three of four are on the front; the second adds most to it, then the third."""
    figures = ((0.10, 1.0), (0.50, 3.0), (0.55, 9.0), (0.05, 9.5))
    rows = [(code, ap, ms) for code, (ap, ms) in zip(FOUND, figures, strict=True)]
    return write_study(tmp_path / "study", load_recipe(SearchRecipe, search_file), rows)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    network = parse_detector(FINDING).network
    path = tmp_path / "other.pt"
    meta = CheckpointMeta(
        network=format_network(network),
        input="96x96",
        classes=("cat",),
        settings={},
        seed=0,
        epoch=1,
        step=1,
        seconds=1,
    )
    save_checkpoint(path, Checkpoint(meta, build(network, 1).state_dict()))
    return path


def test_where_an_arm_comes_from(study: Path, checkpoint: Path) -> None:
    trial = arm_fields("a", {"study": str(study), "trial": 2, "training.epochs": 3})
    assert trial == {"detector": FOUND[2], "training.epochs": 3}
    places = [arm_fields("a", {"study": str(study), "front": place})["detector"] for place in (1, 2, 3)]
    assert places[0] == FOUND[1], "it dominates most"
    assert set(places) == set(FOUND[:3])
    text, _, size = FINDING.partition("@")
    assert size == "64x64"
    found = arm_fields("a", {"checkpoint": str(checkpoint)})
    assert found == {"detector": f"{text}@96x96", "weights": str(checkpoint)}
    assert arm_fields("a", {"checkpoint": str(checkpoint), "weights": "none"})["weights"] == "none"
    assert arm_fields("a", {"detector": "x", "training.lr": 1}) == {"detector": "x", "training.lr": 1}


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"study": "STUDY"},
            RecipeError,
            "arm a: expected detector; or checkpoint; or study with trial or front, got study",
        ),
        ({"trial": 1}, RecipeError, "got trial"),
        ({"study": "STUDY", "trial": 1, "front": 1}, RecipeError, "got study, trial, front"),
        ({"study": "STUDY", "trial": 1, "detector": "x"}, RecipeError, "got detector, study, trial"),
        ({"study": "STUDY", "trial": "one"}, RecipeError, "arm a, trial: expected a number"),
        ({"study": "STUDY", "trial": True}, RecipeError, "expected a number"),
        ({"study": 3, "trial": 1}, RecipeError, "arm a, study: expected a path"),
        ({"study": "STUDY", "trial": 4}, StudyError, "a number from 0 to 3, got 4"),
        ({"study": "STUDY", "front": 4}, RecipeError, "a place from 1 to 3, got 4"),
        ({"study": "STUDY", "front": 0}, RecipeError, "front: expected a place from 1 to 3, got 0"),
        ({"study": "nosuch", "front": 1}, StudyError, "nosuch"),
        ({"checkpoint": "nosuch.pt"}, CheckpointError, "nosuch.pt"),
    ],
)
def test_what_cannot_be_taken_along(study: Path, fields: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {name: str(study) if value == "STUDY" else value for name, value in fields.items()}
    with pytest.raises(error, match=message) as caught:
        arm_fields("a", given)
    assert str(caught.value).startswith("arm a")


def test_all_are_trained_at_one_size(tmp_path: Path, data_file: Path, study: Path, checkpoint: Path) -> None:
    base = {
        "data": {"file": str(data_file), "test": "test"},
        "device": "cpu",
        "training": {"epochs": 1, "batch": 4},
        "latency": {"runs": 3, "seconds": 0.01},
    }
    arms = {
        "known": {"detector": FINDING},
        "found": {"study": str(study), "front": 1},
        "carried": {"checkpoint": str(checkpoint)},
    }
    chosen = recipe(
        data_file, base=base, arms=arms, input="64x96", seeds=[0], figures=["voc_ap50", "ap"], latency=True, workers=2
    )
    found = compare(chosen, tmp_path / "out")
    assert not found.failed
    assert [code.rpartition("@")[2] for row in found.rows for code in row.detectors.values()] == ["64x96"] * 3
    assert found.rows[1].detectors[0].startswith("basicblock_4_1-2-2-21/")
    assert found.names == ("val voc_ap50", "val ap", "test voc_ap50", "test ap")
    assert all(row.costs["latency_ms"].least > 0 for row in found.rows)
    table = [line for line in markdown_comparison(found).splitlines() if line.startswith("|")]
    header = "| arm | weights | val voc_ap50 | val ap | test voc_ap50 | test ap | M parameters | GMACs | ms |"
    assert table[0].startswith(header)
    assert len(table) == 5
    with pytest.raises(StudyError, match="another run's"):
        compare(chosen.model_copy(update={"input": "64x64"}), tmp_path / "out")


def test_a_size_that_no_arm_can_have(tmp_path: Path, data_file: Path) -> None:
    with pytest.raises(RecipeError, match="WxH in pixels"):
        recipe(data_file, input="large")
    with pytest.raises(RecipeError, match=r"arm plain.*at least 32 pixels"):
        compare(recipe(data_file, input="16x16"), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "size", "known"),
    [
        ("voc", "800x600", "faster_rcnn_r50_fpn"),
        ("bdd", "1333x800", "faster_rcnn_r101_fpn"),
        ("bccd", "192x144", "retinanet_slim"),
    ],
)
def test_the_recipes_take_found_ones_beside_a_known_one(name: str, size: str, known: str) -> None:
    found = load_recipe(CompareRecipe, RECIPES / f"transfer-{name}.yaml")
    assert found.input == size
    assert found.latency
    first, *others = found.arms.values()
    assert first["detector"] == known
    detectors = [arm["detector"] for arm in (first, *others) if "detector" in arm]
    assert all(str(resolve(text, InputSize.parse(size)).input) == size for text in detectors)
    assert len(others) == 3


@pytest.mark.parametrize("name", ["voc", "bdd"])
def test_the_training_of_transfer_is_the_final_one(name: str) -> None:
    """But for the epochs; and weights come from where the recipe of pretraining leaves them."""
    final = load_recipe(TrainRecipe, RECIPES / "final.yaml", ["detector=E0", "data.file=any.yaml"])
    runs = runs_of(load_recipe(CompareRecipe, RECIPES / f"transfer-{name}.yaml", ["base.data.file=any.yaml"]))
    command = (RECIPES / "pretrain.yaml").read_text().partition("\n")[0]
    backbone = command.rpartition("--out ")[2]
    assert backbone == "runs/backbone-E0"
    assert f"weights={backbone}/backbone.pt" in (RECIPES / "final.yaml").read_text()
    for key, run in runs.items():
        assert isinstance(run, TrainRecipe)
        epochs = {"epochs": final.training.epochs}
        assert run.training.model_copy(update=epochs) == final.training
        assert (run.devices, run.augmentation) == (final.devices, final.augmentation)
        assert column(run, "norm") == final.norm
        preset = key.removesuffix("-0")
        known = preset.startswith("fpn")
        assert run.weights == ("imagenet" if known else backbone.replace("E0", preset) + "/backbone.pt")
