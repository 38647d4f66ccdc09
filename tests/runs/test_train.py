from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from detsearch.arch.code import parse_detector
from detsearch.errors import CheckpointError, DataError, RecipeError, ResourceError, StudyError
from detsearch.runs.folders import METRICS, RECIPE
from detsearch.runs.inspect import describe, measure_latency
from detsearch.runs.predict import evaluate_checkpoint, predict_images
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import TrainRecipe
from detsearch.runs.train import train_recipe
from detsearch.training import batch
from detsearch.training.checkpoint import read_checkpoint
from tests.runs.conftest import FINDING, TINY


def _recipe(data_file: Path, *settings: str, device: str = "cpu", detector: str = TINY) -> TrainRecipe:
    options = {"detector": detector, "data.file": str(data_file), "data.test": "test", "device": device}
    return load_recipe(TrainRecipe, None, ["training.epochs=1", "training.batch=4", *settings], options)


def test_from_recipe_to_figures(tmp_path: Path, data_file: Path) -> None:
    out = tmp_path / "run"
    recipe = _recipe(data_file, detector=FINDING)
    found = train_recipe(recipe, out)
    assert json.loads((out / METRICS).read_text()) == found
    assert load_recipe(TrainRecipe, out / RECIPE) == recipe
    assert Path(load_recipe(TrainRecipe, out / RECIPE).data.file).is_absolute()
    assert set(found["scores"]) == {"val", "test"}
    assert found["steps"] == 2
    assert found["versions"]["torch"] == torch.__version__

    # Finished already: nothing is trained again, whatever is set that no weight depends on.
    harmless = ("training.log_steps=1", "training.checkpoint_epochs=2", "data.cache_mb=0")
    again = train_recipe(_recipe(data_file, *harmless, detector=FINDING), out)
    assert again["train_seconds"] == found["train_seconds"]

    for split, figures in found["scores"].items():
        scored = evaluate_checkpoint(out / "checkpoint.pt", str(data_file), split, None, device="cpu", batch=2)
        for name in ("ap", "voc_ap50"):
            assert scored[name] == pytest.approx(figures[name], rel=1e-6) != 0
    assert found["scores"]["val"]["ap"] != found["scores"]["test"]["ap"]
    assert measure_latency(
        str(out / "checkpoint.pt"), None, 80, device="cpu", threads=1, runs=3, seconds=0.01
    )["code"] == found["code"]  # fmt: skip


def test_the_convention_of_voc_is_the_recipes_and_part_of_what_makes_the_run(tmp_path: Path, data_file: Path) -> None:
    found = train_recipe(_recipe(data_file, "evaluation.voc=11points"), tmp_path)
    assert {scores["voc_convention"] for scores in found["scores"].values()} == {"11points"}
    with pytest.raises(StudyError, match="one of the same recipe"):
        train_recipe(_recipe(data_file), tmp_path)


def test_the_same_seed_gives_the_same_figures(tmp_path: Path, data_file: Path) -> None:
    first, second, other = (
        train_recipe(_recipe(data_file, f"seed={seed}", detector=FINDING), tmp_path / name)["scores"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == second
    for split in ("val", "test"):
        assert 0 < first[split]["ap"] != other[split]["ap"] > 0


def test_a_folder_of_another_run_is_left_alone(tmp_path: Path, data_file: Path) -> None:
    out = tmp_path / "run"
    train_recipe(_recipe(data_file), out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    for change in ("training.lr=0.5", "training.frozen_bn=true"):
        with pytest.raises(StudyError, match="another run's"):
            train_recipe(_recipe(data_file, change), out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_wrong_device_split_and_folder_come_before_time_is_spent(tmp_path: Path, data_file: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ResourceError, match="device"):
        train_recipe(_recipe(data_file, device="tpu"), out)
    with pytest.raises(DataError, match="nosuch"):
        train_recipe(_recipe(data_file, "data.train=nosuch"), out)
    with pytest.raises(RecipeError, match=r"training\.frozen_stages: expected 0 to 5.*got 6"):
        train_recipe(_recipe(data_file, "training.frozen_stages=6"), out)
    assert not out.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file"):
        train_recipe(_recipe(data_file), tmp_path / "file" / "run")


def test_a_checkpoint_is_not_scored_on_other_classes(tmp_path: Path, data_file: Path) -> None:
    train_recipe(_recipe(data_file), tmp_path / "run")
    other = tmp_path / "other.yaml"
    other.write_text(data_file.read_text() + "classes: [circle, ring]\n")
    with pytest.raises(DataError, match="classes"):
        evaluate_checkpoint(tmp_path / "run" / "checkpoint.pt", str(other), "val", None, device="cpu", batch=2)


def test_prediction_refuses_what_is_no_image(tmp_path: Path, data_file: Path) -> None:
    train_recipe(_recipe(data_file), tmp_path / "run")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8 not an image")
    with pytest.raises(DataError, match=r"bad\.jpg"):
        list(predict_images(tmp_path / "run" / "checkpoint.pt", [bad], None, device="cpu"))
    good = tmp_path / "good.png"
    Image.new("RGB", (40, 30)).save(good)
    answers = predict_images(tmp_path / "run" / "checkpoint.pt", [good, bad], None, device="cpu")
    with pytest.raises(DataError, match=r"bad\.jpg"):  # before the first answer
        next(answers)
    assert len(list(predict_images(tmp_path / "run" / "checkpoint.pt", [good], None, device="cpu"))) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        list(predict_images(tmp_path / "run" / "checkpoint.pt", [tmp_path / "empty"], None, device="cpu"))
    with pytest.raises(CheckpointError):
        list(predict_images(bad, [bad], None, device="cpu"))


def test_a_batch_that_fits_is_found_kept_and_told(
    tmp_path: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found stands in the figures and the checkpoint, not in the recipe; going on, nothing is sought."""
    recipe = _recipe(data_file, "training.batch=auto", "training.base_batch=8", "training.epochs=2")
    found = train_recipe(recipe, tmp_path)
    assert (found["batch"], found["steps"]) == (8, 2), "no more than lr is meant for"
    assert read_checkpoint(tmp_path / "checkpoint.pt").meta.settings["batch"] == 8
    assert load_recipe(TrainRecipe, tmp_path / RECIPE) == recipe
    monkeypatch.setattr(batch, "memory", lambda: (0, 0))
    assert train_recipe(recipe, tmp_path)["batch"] == 8
    with pytest.raises(ResourceError, match="memory for one image"):
        train_recipe(recipe, tmp_path / "other")


def test_description_is_whole_and_by_part() -> None:
    found = describe(parse_detector(TINY), 3)
    assert set(found["parts"]) == {"backbone", "neck", "proposals", "head"}
    for key in ("params", "macs", "memory_access"):
        assert found[key] == sum(part[key] for part in found["parts"].values()) > 0


def test_batch_norm_of_a_single_value_is_refused(tmp_path: Path, data_file: Path) -> None:
    code = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/retinanet(depth=1)@32x32"
    alone = _recipe(data_file, "training.batch=1").model_copy(update={"detector": code})
    with pytest.raises(RecipeError, match="two images"):
        train_recipe(alone, tmp_path / "run")
    in_pairs = _recipe(data_file, "training.batch=2").model_copy(update={"detector": code})
    assert train_recipe(in_pairs, tmp_path / "other")["steps"] == 4
