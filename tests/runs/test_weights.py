"""torchvision's detectors as checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.cli.main import MENDABLE, OK, run
from detsearch.errors import CheckpointError, RecipeError, ResourceError
from detsearch.nn.backbones.weights import State
from detsearch.nn.torchvision_weights import BN_EPS, MODELS, Model, from_torchvision, keep_labels, to_torchvision
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import TrainRecipe
from detsearch.runs.train import train_recipe
from detsearch.runs.weights import import_torchvision
from detsearch.training.checkpoint import load_detector, read_checkpoint
from tests.nn.parity import BODY, answers, noise, same_detections, settle
from tests.nn.scenes import random_targets

Out = pytest.CaptureFixture[str]

COCO = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
IDS = [label for label, name in enumerate(COCO) if name not in ("__background__", "N/A")]
LOGITS = ("cls_score.bias", "cls_logits.bias")


def own(name: str) -> nn.Module:
    """What torchvision's constructor makes without published weights."""
    model: nn.Module = get_model(name, weights=None, weights_backbone=None)
    return model


def test_the_classes_are_cocos() -> None:
    assert len(IDS) == 80
    assert (IDS[0], IDS[-1], COCO[IDS[11]]) == (1, 90, "stop sign")


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_has_its_place(name: str) -> None:
    """There with 80 classes, and, without a choice of labels, back."""
    with torch.device("meta"):
        theirs, detector = own(name).state_dict(), build(parse_network(MODELS[name].network), len(IDS))
    renamed = from_torchvision(theirs)
    kept = keep_labels(renamed, IDS, len(COCO), name)
    assert {k: v.shape for k, v in kept.items()} == {k: v.shape for k, v in detector.state_dict().items()}
    assert {k: v.shape for k, v in to_torchvision(renamed).items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize(
    "name", [n if n == "fcos_resnet50_fpn" else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
def test_same_detections(name: str, tmp_path: Path) -> None:
    """As published: norms frozen, labels that COCO left out never answer."""
    torch.manual_seed(0)
    reference = own(name)
    # Not smaller: norms with the statistics of six places magnify the rounding of scales beyond what is compared.
    sizes, padded = [(128, 160)], (128, 160)
    batch, targets = noise(sizes, padded, torch.float32), random_targets([3], sizes, 80)
    given: list[dict[str, Any]] = [{"boxes": targets.boxes[0], "labels": targets.labels[0] + 1}]
    if name.startswith("mask"):
        given[0]["masks"] = torch.ones(3, *padded, dtype=torch.uint8)
    settle(reference, batch, given, {"rpn.head.bbox_pred": 0.2, "cls_score": 1.5, "bbox_reg": 0.2})
    with torch.no_grad():
        for key, value in reference.named_parameters():
            if key.endswith(LOGITS) and "rpn" not in key:
                value.view(-1, len(COCO))[:, [i for i in range(1, len(COCO)) if i not in IDS]] = -30
                if "roi_heads" not in key:
                    value.view(-1, len(COCO))[:, 0] = -30
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = MODELS[name].frozen_eps
    state = {k: v for k, v in reference.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "theirs.pth")
    out = tmp_path / "ours.pt"
    found = import_torchvision(name, tmp_path / "theirs.pth", out)
    assert found["classes"] == [COCO[i] for i in IDS]
    detector, meta = load_detector(out)
    assert (meta.network, meta.input) == (MODELS[name].network, "1333x800")
    # In float64, so that what rounding does in a deep random network is not seen.
    batch = noise(sizes, padded, torch.float64)
    (their,) = answers(reference.double(), batch)
    assert len(their["boxes"]) >= 50
    ids = {label: k for k, label in enumerate(IDS)}
    their["labels"] = torch.tensor([ids[int(label)] for label in their["labels"]])
    same_detections(detector.double().detect(batch), 0, their, exact=False)


def slim(classes: int) -> State:
    """A state under torchvision's names, of a RetinaNet for `classes` labels that is quickly built."""
    return to_torchvision(build(parse_network(SLIM), classes).state_dict())


SLIM = f"{BODY}/fpn(width=16)/retinanet"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of what stands in for a published network."""
    monkeypatch.setitem(MODELS, "retinanet_resnet50_fpn", Model(SLIM, frozen_eps=0.0))  # type: ignore[arg-type]
    torch.save(slim(len(COCO)), tmp_path / "slim.pth")
    return tmp_path / "slim.pth"


def coco_set(folder: Path, names: list[str]) -> Path:
    """A COCO dataset of one image, whose category ids are COCO's."""
    Image.new("RGB", (64, 64), "grey").save(folder / "a.png")
    box = {"id": 1, "image_id": 1, "category_id": IDS[0], "bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "annotations": [box],
        "categories": [{"id": i, "name": name} for i, name in zip(IDS, names, strict=False)],
    }
    (folder / "a.json").write_text(json.dumps(content))
    path = folder / "coco.yaml"
    splits = {split: {"images": ".", "annotations": "a.json"} for split in ("train", "val")}
    path.write_text(yaml.safe_dump({"format": "coco", "root": ".", "splits": splits}))
    return path


def test_the_checkpoint_is_taken_by_every_command(file: Path, tmp_path: Path, capsys: Out) -> None:
    out = str(tmp_path / "coco.pt")
    assert run(["weights", "retinanet_resnet50_fpn", "--file", str(file), "--out", out]) == OK
    assert f"{SLIM}@1333x800, 80 classes" in capsys.readouterr().out
    data = str(coco_set(tmp_path, [COCO[i] for i in IDS]))
    small = ["--input", "128x128", "--device", "cpu"]
    assert run(["eval", out, "--data", data, *small, "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["images"] == 1
    assert run(["predict", out, str(tmp_path / "a.png"), *small]) == OK
    assert run(["latency", out, *small, "--runs", "3", "--seconds", "0.01"]) == OK
    command = ["train", f"{SLIM}@128x128", "--data", data, "--set", f"weights={out}", "--epochs", "1"]
    assert run([*command, "--out", str(tmp_path / "run"), "--device", "cpu", "--set", "training.batch=1"]) == OK


def test_a_training_begins_with_it(file: Path, tmp_path: Path) -> None:
    """Whole where the classes are the same; else what depends on their number begins afresh."""
    out = tmp_path / "coco.pt"
    import_torchvision("retinanet_resnet50_fpn", file, out)
    begun = read_checkpoint(out).weights
    for names in ([COCO[i] for i in IDS], ["person", "house"]):
        folder = tmp_path / str(len(names))
        folder.mkdir()
        data = coco_set(folder, names)
        still = ["training.lr=1e-12", "training.epochs=1", "training.batch=1", "device=cpu"]  # nothing is learned
        values = {"detector": f"{SLIM}@128x128", "data.file": str(data), "weights": str(out)}
        train_recipe(load_recipe(TrainRecipe, None, still, values), folder / "run")
        found = read_checkpoint(folder / "run" / "checkpoint.pt").weights
        fresh = {k for k, v in found.items() if v.shape != begun[k].shape}
        assert fresh == (set() if len(names) == 80 else {"head.class_logits.weight", "head.class_logits.bias"})
        for key, value in found.items():
            if key not in fresh and value.is_floating_point() and "running" not in key:
                torch.testing.assert_close(value, begun[key], rtol=0, atol=1e-6)


def test_another_network_cannot_begin_with_it(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "coco.pt"
    import_torchvision("retinanet_resnet50_fpn", file, out)
    values = {"detector": f"{BODY}/fpn(width=8)/retinanet@128x128", "weights": str(out)}
    values["data.file"] = str(coco_set(tmp_path, [COCO[i] for i in IDS]))
    recipe = load_recipe(TrainRecipe, None, ["device=cpu"], values)
    with pytest.raises(CheckpointError, match=r"a checkpoint of .*width=8.* got one of .*width=16"):
        train_recipe(recipe, tmp_path / "run")


def test_norms_that_are_not_frozen_keep_their_eps(file: Path, tmp_path: Path) -> None:
    """Which is ours, so that nothing goes into their scale."""
    state = slim(len(COCO))
    for name, drop in (("own", False), ("frozen", True)):
        kept = {k: v for k, v in state.items() if not (drop and k.endswith("num_batches_tracked"))}
        torch.save(kept, file)
        import_torchvision("retinanet_resnet50_fpn", file, tmp_path / f"{name}.pt")
    before, after = (read_checkpoint(tmp_path / f"{name}.pt").weights for name in ("own", "frozen"))
    key = "backbone.stem.bn1.weight"
    torch.testing.assert_close(after[key] / before[key], torch.full((16,), (1 + BN_EPS) ** 0.5), rtol=0, atol=1e-6)


def _bad(kind: str, path: Path) -> None:
    state: Any = slim(len(COCO))
    key = "head.classification_head.cls_logits.bias"
    match kind:
        case "classes":
            state = slim(21)
        case "scalar":
            state[key] = torch.zeros(())
        case "empty tensor":
            state[key] = torch.zeros(0)
        case "foreign name":
            state["roi_heads.keypoint_head.0.weight"] = torch.zeros(3)
        case "missing":
            del state[key]
        case "no norm":
            del state["backbone.body.bn1.weight"]
        case "shape":
            state["backbone.body.conv1.weight"] = torch.zeros(1, 2, 3)
        case "other network":
            state = {
                "roi_heads.box_head.fc7.weight": torch.zeros(3, 3),
                "roi_heads.box_predictor.bbox_pred.bias": torch.zeros(()),
            }
        case "no state":
            state = [1, 2]
        case "code":
            state = {"a": Path}
        case "bytes":
            path.write_bytes(b"\x80\x02garbage")
            return
        case "absent":
            path.unlink()
            return
    torch.save(state, path)


@pytest.mark.parametrize(
    "kind",
    ["classes", "scalar", "empty tensor", "foreign name", "missing", "no norm", "shape", "other network", "no state",
     "code", "bytes", "absent"],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_one_line(kind: str, file: Path, tmp_path: Path, capsys: Out) -> None:
    _bad(kind, file)
    command = ["weights", "retinanet_resnet50_fpn", "--file", str(file), "--out", str(tmp_path / "ours.pt")]
    assert run(command) == MENDABLE
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert not (tmp_path / "ours.pt").exists()


def test_wrong_names_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean retinanet_resnet50_fpn"):
        import_torchvision("retinanet_resnet50_fnp", file, tmp_path / "ours.pt")
    with pytest.raises(RecipeError, match=r"ends in \.pt"):
        import_torchvision("retinanet_resnet50_fpn", file, tmp_path / "ours.pth")


def test_weights_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(ResourceError, match=r"no route; fetch https://.*retinanet.* give it with --file"):
        import_torchvision("retinanet_resnet50_fpn", None, tmp_path / "ours.pt")
