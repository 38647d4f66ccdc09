"""A backbone from folders of images to a detector that begins with its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detsearch import __version__
from detsearch.arch.code import parse_module, parse_network
from detsearch.build import build
from detsearch.errors import CheckpointError, DataError, RecipeError, ResourceError, SpecError, StudyError
from detsearch.runs import pretrain as module
from detsearch.runs.folders import METRICS, RECIPE
from detsearch.runs.inspect import describe_backbone
from detsearch.runs.pretrain import pretrain
from detsearch.runs.pretrain_recipe import PretrainRecipe
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import TrainRecipe
from detsearch.runs.train import train_recipe
from detsearch.search.trial import TrialInterrupted
from detsearch.training import batch
from detsearch.training.checkpoint import load_detector, read_checkpoint
from detsearch.training.run import TrainingRun
from detsearch.types import InputSize
from tests.data.folders import CLASSES, image_folders
from tests.runs.conftest import TINY
from tests.training.toys import same, stop_after

BACKBONE = "basicblock_4_1-2-2-2"
SEARCHED = f"{BACKBONE}/fpn(levels=4-5,width=8)/retinanet(depth=1)/gn_ws@64x64"
SMALL = ("training.epochs=1", "training.batch=4", "training.base_batch=4", "size=32")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """12 images to train on and 6 to score, of three colours."""
    return image_folders(tmp_path / "images")


def recipe_of(root: Path, *settings: str, backbone: str = BACKBONE, **options: object) -> PretrainRecipe:
    given = {"backbone": backbone, "data.root": str(root), "device": "cpu", **options}
    return load_recipe(PretrainRecipe, None, [*SMALL, *settings], given)


def final_of(data_file: Path, *settings: str, detector: str = SEARCHED) -> TrainRecipe:
    options = {"detector": detector, "data.file": str(data_file), "device": "cpu"}
    return load_recipe(TrainRecipe, None, ["training.epochs=1", "training.batch=4", *settings], options)


def test_from_folders_of_images_to_a_detector(
    tmp_path: Path, root: Path, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was searched with gn_ws is pretrained and trained with bn; at step 0 its backbone is the pretrained one."""
    out = tmp_path / "backbone"
    told: list[str] = []
    found = pretrain(recipe_of(root, backbone=SEARCHED), out, tell=told.append)
    assert json.loads((out / METRICS).read_text()) == found
    assert found["versions"]["detsearch"] == __version__
    assert (found["code"], found["norm"], found["classes"]) == (f"{BACKBONE}/classifier", "bn", 3)
    assert 0 <= found["top1"] <= found["top5"] == 1
    assert (found["steps"], found["images"]) == (3, {"train": 12, "val": 6})
    assert told == ["looking at the 12 image files of train", "looking at the 6 image files of val"]
    described = describe_backbone(parse_module(BACKBONE), InputSize(32, 32), 3)
    assert (found["params"], found["macs"]) == (described["params"], described["macs"])
    written = load_recipe(PretrainRecipe, out / RECIPE)
    assert (written.backbone, written.norm, Path(written.data.root)) == (BACKBONE, "bn", root)

    weights = torch.load(out / "backbone.pt", weights_only=True)
    detector = build(parse_network(SEARCHED.replace("/gn_ws@64x64", "")), 2)
    backbone = detector.get_submodule("backbone")
    assert weights.keys() == backbone.state_dict().keys()
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in weights.values())
    begin = f"weights={out / 'backbone.pt'}"
    with pytest.raises(CheckpointError, match="take weights of the same architecture and norm"):
        train_recipe(final_of(data_file, begin), tmp_path / "gn_ws")

    def at_once(*_: object) -> None:
        raise TrialInterrupted("before the first step")

    final = final_of(data_file, begin, "norm=bn", "training.sync_bn=true")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "optimise", at_once)
        with pytest.raises(TrialInterrupted):
            train_recipe(final, tmp_path / "final")
    checkpoint = read_checkpoint(tmp_path / "final" / "checkpoint.pt")
    assert checkpoint.meta.step == 0
    part = {k.removeprefix("backbone."): v for k, v in checkpoint.weights.items() if k.startswith("backbone.")}
    assert same(part, weights)
    fresh = {k: v for k, v in backbone.state_dict().items() if k.endswith("weight")}
    assert not any(torch.equal(fresh[k], weights[k]) for k in fresh), "they were trained"

    trained = train_recipe(final, tmp_path / "final")
    assert trained["code"] == SEARCHED.replace("/gn_ws", "")
    assert load_recipe(TrainRecipe, tmp_path / "final" / RECIPE).norm is None, "its detector has it"
    without = final_of(data_file, begin, "training.sync_bn=true", detector=trained["code"])
    assert train_recipe(without, tmp_path / "final")["train_seconds"] == trained["train_seconds"], "the same run"


class _Asked:
    """In place of Ctrl-C: stops after so many steps."""

    def __init__(self, steps: int) -> None:
        self.requested = stop_after(steps)

    def __enter__(self) -> _Asked:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _lines(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_resumed_training_equals_the_uninterrupted_one(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: weights, average, log and figures, with all that draws random numbers."""
    many = ["training.epochs=3", "training.ema_decay=0.9", "training.smoothing=0.1", "training.eval_epochs=1"]
    recipe = recipe_of(root, *many, "training.accumulate=2", "augmentation.brightness=0.3")
    plain = pretrain(recipe, tmp_path / "plain")
    for steps in (2, 4):
        with monkeypatch.context() as patch:
            patch.setattr(module, "Stop", lambda steps=steps: _Asked(steps))
            with pytest.raises(TrialInterrupted):
                pretrain(recipe, tmp_path / "resumed")
    told: list[str] = []
    resumed = pretrain(recipe, tmp_path / "resumed", tell=told.append)
    assert not told, "images are looked at once"
    states = [torch.load(tmp_path / name / "backbone.pt", weights_only=True) for name in ("plain", "resumed")]
    assert same(*states)
    assert _lines(tmp_path / "plain") == _lines(tmp_path / "resumed")
    assert set(_lines(tmp_path / "plain")[0]["metrics"]) == {"top1", "top5"}
    assert {**plain, "train_seconds": 0, "checkpoint": "", "weights": ""} == {
        **resumed, "train_seconds": 0, "checkpoint": "", "weights": "",
    }  # fmt: skip
    other = pretrain(recipe.model_copy(update={"seed": 1}), tmp_path / "other")
    assert not same(states[0], torch.load(other["weights"], weights_only=True))


def test_it_learns_what_it_sees(tmp_path: Path, root: Path) -> None:
    """Colours, from a few images, with batch norm and weights begun with those of a training before. Seeds 0 to 2 all
    end at 1; at a larger rate it depends on the processor, which adds in another order."""
    settings = ["training.epochs=20", "training.lr=0.02", "training.warmup_steps=2", "data.val=train"]
    found = pretrain(recipe_of(root, *settings, "training.batch=6"), tmp_path / "a")
    assert found["top1"] == 1
    losses = [line["loss"] for line in _lines(tmp_path / "a")]
    assert losses[-1] < 0.3 * losses[0]
    again = pretrain(recipe_of(root, f"weights={found['weights']}", "training.lr=0.01"), tmp_path / "b")
    assert again["top1"] > 1 / 3
    assert _lines(tmp_path / "b")[0]["loss"] < losses[0], "a backbone that knows colours has only to name them"


def test_frozen_stages_stay(tmp_path: Path, root: Path) -> None:
    found = pretrain(recipe_of(root), tmp_path / "a")
    frozen = ["training.frozen_stages=2", "training.frozen_bn=true", f"weights={found['weights']}"]
    again = pretrain(recipe_of(root, *frozen), tmp_path / "b")
    before, after = (torch.load(one["weights"], weights_only=True) for one in (found, again))
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith(("stem.", "layer1."))} <= still
    assert not any(name in still for name in before if name.startswith("layer4.") and "conv" in name)


def test_a_batch_that_fits(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(root, "training.batch=auto", "training.base_batch=8")
    assert pretrain(recipe, tmp_path / "a")["batch"] == 8
    monkeypatch.setattr(batch, "memory", lambda: (0, 0))
    assert pretrain(recipe, tmp_path / "a")["batch"] == 8
    with pytest.raises(ResourceError, match="memory for one image"):
        pretrain(recipe, tmp_path / "b")


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path, root: Path) -> None:
    """On shares of each batch, without a norm that would tell; some seconds for each process to begin."""
    one, two = (
        pretrain(recipe_of(root, "norm=gn", f"devices={devices}", "training.epochs=2"), tmp_path / str(devices))
        for devices in (1, 2)
    )
    first, second = (torch.load(found["weights"], weights_only=True) for found in (one, two))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-5)
    assert (one["steps"], one["top1"]) == (two["steps"], two["top1"])


def test_published_figures_stand_beside_ours(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where data and size are those that they are about."""
    recipe = recipe_of(root, backbone="E0")
    assert "published" not in pretrain(recipe, tmp_path / "a")
    monkeypatch.setattr(module, "IMAGENET", InputSize(32, 32))
    monkeypatch.setattr(module, "CATEGORIES", 3)
    assert pretrain(recipe, tmp_path / "a")["published"]["top1"] == 0.7128


def test_folders_of_other_runs_are_left_alone(tmp_path: Path, root: Path, data_file: Path) -> None:
    out = tmp_path / "run"
    first = pretrain(recipe_of(root), out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    for change in ("training.lr=0.5", "size=64", "norm=gn", "evaluation.resize=40", "augmentation.scale=[0.5, 1]"):
        with pytest.raises(StudyError, match="one of the same recipe, got another run's"):
            pretrain(recipe_of(root, change), out)
    with pytest.raises(StudyError, match="one of the same recipe, got another run's"):
        train_recipe(final_of(data_file), out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    harmless = ("evaluation.batch=2", "training.log_steps=1", "training.workers=1", "evaluation.resize=37")
    again = pretrain(recipe_of(root, *harmless), out)
    assert (again["train_seconds"], again["top1"]) == (first["train_seconds"], first["top1"])

    train_recipe(final_of(data_file, detector=TINY), tmp_path / "train")
    with pytest.raises(StudyError, match="got another run's"):
        pretrain(recipe_of(root), tmp_path / "train")


def test_a_classifiers_checkpoint_is_no_detectors(tmp_path: Path, root: Path, data_file: Path) -> None:
    checkpoint = pretrain(recipe_of(root), tmp_path / "run")["checkpoint"]
    assert read_checkpoint(Path(checkpoint)).meta.classes == CLASSES
    with pytest.raises(CheckpointError, match="a network that can be built here, got basicblock_4_1-2-2-2/classifier"):
        load_detector(Path(checkpoint))
    with pytest.raises(CheckpointError, match=r"weights are in the backbone\.pt beside it"):
        train_recipe(final_of(data_file, f"weights={checkpoint}"), tmp_path / "train")
    with pytest.raises(RecipeError, match="a checkpoint"):
        pretrain(recipe_of(root, f"weights={checkpoint}"), tmp_path / "again")
    assert not (tmp_path / "train").exists()
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["backbone=resnet5"], SpecError, "resnet5"),
        (["backbone=resnet18/fpn/retinanet"], SpecError, "an input size"),
        (["data.root=nosuch"], DataError, "nosuch"),
        (["data.val=test"], DataError, "a folder 'test', got folders: train, val"),
        (["device=tpu"], ResourceError, "device"),
        (["weights=nosuch.pt"], CheckpointError, "nosuch.pt"),
        (["weights=imagenet"], ResourceError, "imagenet weights"),
        (["training.frozen_stages=6"], RecipeError, "frozen_stages"),
        (
            ["training.frozen_stages=1"],
            RecipeError,
            "frozen_stages: expected 0 where training begins with weights: none",
        ),
        (["size=224", "evaluation.resize=200"], RecipeError, r"at least size \(224\), not 200"),
        (["training.batch=3", "devices=2"], RecipeError, "a multiple of 2"),
        (["training.batch=1"], RecipeError, "norm bn at input 32x32"),
        (["augmentation.scale=[1, 0.5]"], RecipeError, "augmentation: expected scale: the least first"),
        (["training.smoothing=1"], RecipeError, "training.smoothing"),
        (["size=16"], RecipeError, "size"),
        (["norm=ln"], RecipeError, "norm"),
        (["sise=32"], RecipeError, "did you mean 'size'"),
    ],
)
def test_mistakes_come_before_time_is_spent(
    tmp_path: Path, root: Path, settings: list[str], error: type[Exception], message: str
) -> None:
    out = tmp_path / "run"
    given = {name: None for name in ("backbone", "data.root", "device") if any(s.startswith(name) for s in settings)}
    with pytest.raises(error, match=message) as caught:
        pretrain(recipe_of(root, *settings, **given), out)
    assert "\n" not in str(caught.value)
    assert not (out / "checkpoint.pt").exists()


def test_more_devices_than_there_are(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detsearch.runs.device.cpus", lambda: 1)
    with pytest.raises(ResourceError, match="devices: expected at most 1"):
        pretrain(recipe_of(root, "devices=2"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_broken_image_is_said_before_training(tmp_path: Path, root: Path) -> None:
    (root / "val" / "green" / "1.png").write_bytes(b"")
    (root / "train" / "red" / "3.png").rename(root / "train" / "red" / "3.txt")
    with pytest.raises(DataError, match=r"val/green/1\.png"):
        pretrain(recipe_of(root), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (root / "val" / "green" / "1.png").unlink()
    (root / "train" / "empty").mkdir()
    told: list[str] = []
    assert pretrain(recipe_of(root), tmp_path / "run", tell=told.append)["classes"] == 4
    assert told[:2] == [f"{root / 'train'}: no images of empty", f"{root / 'val'}: no images of empty"]


def test_every_field_says_what_it_is() -> None:
    schema = PretrainRecipe.model_json_schema()
    parts = [
        schema,
        *(schema["$defs"][name] for name in ("ClassifierSettings", "ClassifierEvaluation", "FolderSettings")),
    ]
    for name, field in (item for part in parts for item in part["properties"].items() if "$ref" not in item[1]):
        assert field.get("description"), name
