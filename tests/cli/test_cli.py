from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from pycocotools import mask as coco_masks

from detsearch import __version__
from detsearch.arch.cells import MASK_CELL, ORIGINS
from detsearch.cli.main import DEFECT, MENDABLE, OK, run
from tests.data.folders import image_folders
from tests.runs.conftest import DATA, MASKED, TINY

Out = pytest.CaptureFixture[str]


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(DATA))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path, data_file: Path, capsys: Out) -> Path:
    """A detector trained for a step."""
    out = tmp_path / "trained"
    command = ["train", TINY, "--data", str(data_file), "--out", str(out), "--epochs", "1", "--device", "cpu"]
    assert run([*command, "--set", "training.batch=8"]) == OK
    capsys.readouterr()
    return out / "checkpoint.pt"


COMMANDS = [
    "demo", "data check", "data convert", "describe", "search structure", "search modules", "search all",
    "study show", "study analyse", "study table",
    "study latency", "report", "train", "eval",
    "predict", "latency", "modules", "schema", "space", "weights", "pretrain",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: Out) -> None:
    assert run([*command.split(), "--help"]) == OK
    text = capsys.readouterr().out
    assert "Usage" in text
    assert len(text.splitlines()) > 5


def test_version_and_no_arguments(capsys: Out) -> None:
    assert run(["--version"]) == OK
    assert __version__ in capsys.readouterr().out
    assert run([]) == MENDABLE
    assert "search" in capsys.readouterr().out


def test_describe_prints_json_by_part(capsys: Out) -> None:
    assert run(["describe", "retinanet_slim", "--input", "128x128", "--classes", "3", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["input"] == "128x128"
    assert set(found["parts"]) == {"backbone", "neck", "proposals", "head"}
    assert found["params"] == sum(part["params"] for part in found["parts"].values())


def test_describe_shows_what_was_published(capsys: Out) -> None:
    assert run(["describe", "E0", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == 80
    assert found["published"]["source"].startswith("SM-NAS")
    assert (found["published"]["ap"], found["published"]["latency_ms"]) == (0.271, 24.5)
    assert run(["describe", "E0"]) == OK
    text = " ".join(capsys.readouterr().out.split())
    assert "published by SM-NAS (Yao et al., AAAI 2020), not measured here: AP 27.1 on COCO val, 24.5 ms on" in text
    assert "backbone at 512x512: 7.16 G MACs" in text
    assert "at 224x224: top-1 71.28 %, 8.15 M parameters, 1.37 G MACs" in text


def test_describe_a_backbone(capsys: Out) -> None:
    command = ["describe", "basicblock_64_1-21-21-12", "--backbone", "--input", "224x224", "--classes", "1000"]
    assert run([*command, "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert set(found["parts"]) == {"backbone", "classifier"}
    assert found["params"] / 1e6 == pytest.approx(8.15, rel=0.01)
    assert found["macs"] / 1e9 == pytest.approx(1.37, rel=0.01)
    assert run(["describe", "retinanet_slim", "--backbone"]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["basicblock_16_11-21-21-21", "1000 classes, one image of 320x256 (input 320x256 padded)"]
    assert not [line for line in lines if "published" in line]
    assert run(["describe", "basicblock_64_1-21-21", "--backbone"]) == MENDABLE
    assert "four stages joined by '-', got 3" in capsys.readouterr().err


def test_describe_reads_a_file(tmp_path: Path, capsys: Out) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(TINY + "\n")
    assert run(["describe", str(path)]) == OK
    assert TINY in capsys.readouterr().out


def test_latency_states_both_ends(capsys: Out) -> None:
    assert run(["latency", TINY, "--device", "cpu", "--runs", "3", "--seconds", "0.01", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["median_ms"] > 0
    assert {"includes", "excludes", "device_name", "threads", "warmup"} <= set(found["protocol"])


def test_data_check(data_file: Path, tmp_path: Path, capsys: Out) -> None:
    assert run(["data", "check", str(data_file), "--samples", str(tmp_path / "drawn"), "-n", "2", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["images"] == 8
    assert len(found["drawn"]) == len(list((tmp_path / "drawn").glob("*.png"))) == 6
    assert run(["data", "check", "synthetic"]) == OK
    assert "train: " in capsys.readouterr().out


def test_data_check_of_broken_data_is_2(tmp_path: Path, capsys: Out) -> None:
    images = [{"id": 1, "file_name": "gone.jpg", "width": 9, "height": 9}]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    path = tmp_path / "coco.yaml"
    path.write_text("format: coco\nroot: .\nsplits: {train: {images: ., annotations: a.json}}\n")
    assert run(["data", "check", str(path), "--samples", str(tmp_path / "drawn")]) == MENDABLE
    printed = capsys.readouterr().out
    assert "gone.jpg" in printed
    assert printed.splitlines()[-1] == "nothing drawn of train: it has no image that can be used"
    assert not list((tmp_path / "drawn").iterdir())


def test_data_check_draws_what_is_sound_of_broken_data(data_file: Path, tmp_path: Path, capsys: Out) -> None:
    command = ["data", "convert", str(data_file), "--to", "coco", "--out", str(tmp_path / "coco")]
    assert run(command) == OK
    file = tmp_path / "coco" / "dataset.yaml"
    content = yaml.safe_load(file.read_text())
    content["splits"]["val"]["annotations"] = "nosuch.json"
    file.write_text(yaml.safe_dump(content))
    next((tmp_path / "coco" / content["splits"]["train"]["images"]).glob("*.png")).write_bytes(b"")
    capsys.readouterr()
    assert run(["data", "check", str(file), "--samples", str(tmp_path / "drawn")]) == MENDABLE
    lines = capsys.readouterr().out.splitlines()
    drawn = [line.removeprefix("drawn: ") for line in lines if line.startswith("drawn: ")]
    assert sorted(drawn) == sorted(map(str, (tmp_path / "drawn").iterdir()))
    assert len(drawn) == 7 + 4
    assert "nothing drawn of val: it has no image that can be used" in lines


def test_a_folder_that_cannot_be_made_is_told_plainly(data_file: Path, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "file").write_text("")
    place = f"{tmp_path}/file/drawn"
    assert run(["data", "check", str(data_file), "--samples", place]) == MENDABLE
    printed = capsys.readouterr()
    assert printed.out == ""
    expected = f"detsearch: {place}: expected a folder, or a place to make one, got {tmp_path}/file, which is a file; "
    assert " ".join(printed.err.split()).startswith(expected)
    if Path("/proc/self").exists():
        assert run(["data", "check", str(data_file), "--samples", "/proc/foo"]) == MENDABLE
        assert "/proc/foo: expected a folder, or a place to make one, got a place where" in capsys.readouterr().err


def test_data_convert(data_file: Path, tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "voc"
    command = ["data", "convert", str(data_file), "--to", "voc", "--out", str(out), "--split"]
    command += ["train", "--split", "val"]
    assert run(command) == OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train: 8 images, ")
    assert [line for line in lines if line.startswith("not kept: ")]
    assert lines[-1] == f"data file: {out / 'dataset.yaml'}"
    assert run(["data", "check", str(out / "dataset.yaml"), "--json"]) == OK
    assert {name: split["images"] for name, split in json.loads(capsys.readouterr().out)["splits"].items()} == {
        "train": 8,
        "val": 4,
    }
    assert run(command) == MENDABLE  # nothing is overwritten
    assert "a new or an empty folder" in capsys.readouterr().err
    linked = ["data", "convert", str(out / "dataset.yaml"), "--to", "yolo", "--out", str(tmp_path / "yolo")]
    assert run([*linked, "--images", "link", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == {"train": 8, "val": 4}
    image = next((out / "JPEGImages").iterdir())
    assert image.stat().st_nlink == 2


def test_eval_and_predict(checkpoint: Path, data_file: Path, tmp_path: Path, capsys: Out) -> None:
    assert run(["eval", str(checkpoint), "--data", str(data_file), "--split", "val+test", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 8
    assert {"ap", "ap50", "voc_ap50", "per_class"} <= set(found)
    assert found["voc_convention"] == "area"
    assert run(["eval", str(checkpoint), "--data", str(data_file), "--voc", "11points"]) == OK
    assert "VOC AP50 (mean of 11 points): " in capsys.readouterr().out

    assert run(["data", "check", str(data_file), "--samples", str(tmp_path / "images"), "-n", "1"]) == OK
    capsys.readouterr()
    command = ["predict", str(checkpoint), str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--threshold", "0"]
    assert run([*command, "--json"]) == OK
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 3
    for answer in answers:
        assert Path(answer["drawn"]).is_file()
        for detection in answer["detections"]:
            assert 0 <= detection["score"] <= 1
            x1, y1, x2, y2 = detection["box"]
            assert 0 <= x1 <= x2 <= 64
            assert 0 <= y1 <= y2 <= 64

    assert run([*command, "--beside", str(checkpoint), "--json"]) == OK
    for alone, both in zip(answers, json.loads(capsys.readouterr().out), strict=True):
        assert both["beside"] == both["detections"] == alone["detections"]
        with Image.open(alone["drawn"]) as single, Image.open(both["drawn"]) as double:
            assert double.width > 2 * single.width
    assert run([*command, "--beside", str(checkpoint)]) == OK
    assert "; beside it: " in capsys.readouterr().out
    assert run([*command, "--beside", "nosuch.pt"]) == MENDABLE
    assert "nosuch.pt" in capsys.readouterr().err


def test_an_input_below_the_largest_stride_is_refused(checkpoint: Path, data_file: Path, capsys: Out) -> None:
    (image := checkpoint.parent / "a.png").write_bytes(b"")
    for command in (
        ["eval", str(checkpoint), "--data", str(data_file)],
        ["predict", str(checkpoint), str(image)],
        ["latency", str(checkpoint), "--device", "cpu"],
    ):
        for size in ("8x8", "64x16"):
            assert run([*command, "--input", size]) == MENDABLE
            message = "input: expected at least 32 pixels a side, the largest stride, got " + size
            assert message in capsys.readouterr().err


def test_masks_are_drawn_and_given_as_run_lengths(data_file: Path, tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "trained"
    command = ["train", MASKED, "--data", str(data_file), "--out", str(out), "--epochs", "1", "--device", "cpu"]
    assert run([*command, "--set", "training.batch=8"]) == OK
    assert "val, masks: AP" in capsys.readouterr().out
    assert run(["data", "check", str(data_file), "--samples", str(tmp_path / "images"), "-n", "1"]) == OK
    assert " masks" in capsys.readouterr().out

    command = ["predict", str(out / "checkpoint.pt"), str(tmp_path / "images"), "--out", str(tmp_path / "drawn")]
    assert run([*command, "--threshold", "0", "--json"]) == OK
    answers = json.loads(capsys.readouterr().out)
    detections = [detection for answer in answers for detection in answer["detections"]]
    assert detections
    for detection in detections:
        assert detection["mask"]["size"] == [64, 64]
        assert coco_masks.area({**detection["mask"], "counts": detection["mask"]["counts"].encode()}) <= 64 * 64
        assert "mask_score" not in detection

    images = [{"id": 1, "file_name": f"{next((tmp_path / 'images').iterdir()).name}", "width": 64, "height": 64}]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}]
    names = [{"id": i, "name": name} for i, name in enumerate(("circle", "square", "triangle", "cross", "ring"), 1)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": names}))
    (tmp_path / "bare.yaml").write_text("format: coco\nroot: .\nsplits: {val: {images: images, annotations: a.json}}\n")
    assert run(["eval", str(out / "checkpoint.pt"), "--data", str(tmp_path / "bare.yaml")]) == OK
    assert "boxes only: the split has no masks" in capsys.readouterr().out


def test_modules_and_schema(capsys: Out) -> None:
    assert run(["modules", "--json"]) == OK
    rows = {row["token"]: row for row in json.loads(capsys.readouterr().out)["modules"]}
    assert {"name": "extra_from", "accepts": "p5 or c5 or pool", "default": "p5"} in rows["fpn"]["fields"]
    assert run(["modules"]) == OK
    assert "depth=4: an integer" in capsys.readouterr().out
    assert run(["schema", "search"]) == OK
    schema = json.loads(capsys.readouterr().out)
    assert schema["additionalProperties"] is False
    assert "budget" in schema["properties"]


def test_schema_of_a_data_file(capsys: Out) -> None:
    assert run(["schema", "data"]) == OK
    assert "YoloFile" in json.loads(capsys.readouterr().out)["$defs"]


def test_space_is_counted_and_listed(tmp_path: Path, capsys: Out) -> None:
    """The paper's without a recipe; a recipe's own, whose data need not be there."""
    assert run(["space", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["size"] == 10_836
    assert {part: len(choices) for part, choices in found["choices"].items()} == {
        "backbone": 7, "neck": 43, "proposals": 3, "head": 5, "norm": 1, "input": 4,
    }  # fmt: skip
    recipe = tmp_path / "search.yaml"
    recipe.write_text("data: {file: nosuch.yaml}\nspace: {detectors: [retinanet_slim]}\n")
    assert run(["space", "--recipe", str(recipe)]) == OK
    assert capsys.readouterr().out.startswith("1 detectors\ndetectors, 1: basicblock_16")
    assert run(["space", "--set", "space.backbone=[resnet19]"]) == MENDABLE
    capsys.readouterr()
    modules = "space.modules={structure: faster_rcnn_r18_fpn@512x512}"
    assert run(["space", "--set", modules]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5102604088560 detectors"
    assert "base: [48, 56, 64, 72]" in lines
    cells = "space.cells={detector: fcos_r18_fpn@512x512, operations: std}"
    assert run(["space", "--set", cells]) == OK
    out = capsys.readouterr().out
    assert out.startswith(f"{(18 * 6**6) ** 2} detectors\ndetector: resnet18/fpn/fcos(tower=cells)@512x512\n")


def test_describe_says_how_many_regions_are_counted(capsys: Out) -> None:
    slim = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/rpn(keep=50)/2fc(width=16,mask=mask)/gn@64x64"
    assert run(["describe", slim]) == OK
    assert "counted with 50 proposals and 100 masks" in capsys.readouterr().out
    assert run(["describe", slim, "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["regions"] == {"proposals": 50, "masks": 100}


def test_describe_shows_the_receptive_fields_of_cells(capsys: Out) -> None:
    """And says of the masks' cell that it is not the published one."""
    slim = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/fcos(tower=cells(classes=skip(0)|sep1(2),width=8))@64x64"
    assert run(["describe", slim]) == OK
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "head.tower.boxes: sep3(0)+std3(1)|sep1d2(1)+std1(2)|sep2(2)+std2(3); receptive fields 7 7 | 7 3 | 5 5" in out
    )
    assert "head.tower.classes: skip(0)|sep1(2); receptive fields 1 | 3" in out
    assert run(["describe", slim, "--json"]) == OK
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert cells["tower.classes"] == {"cell": "skip(0)|sep1(2)", "receptive_fields": [[1], [3]], "origin": None}
    assert cells["tower.boxes"]["origin"].startswith("published")
    masked = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/rpn/2fc(width=16,mask=mask(tower=cellgroup))@64x64"
    assert run(["describe", masked]) == OK
    assert ORIGINS[MASK_CELL] in " ".join(capsys.readouterr().out.split())


def test_pretrain_then_train(data_file: Path, tmp_path: Path, capsys: Out) -> None:
    """One option passes the weights on, one gives a detector that was searched with group norms batch norms."""
    root = image_folders(tmp_path / "images")
    (root / "val" / "green" / "0.png").unlink()
    (root / "val" / "green" / "1.png").unlink()
    code, out = TINY.replace("/gn@", "/gn_ws@"), tmp_path / "backbone"
    command = ["pretrain", code, "--data", str(root), "--out", str(out), "--epochs", "1", "--size", "32"]
    assert run([*command, "--device", "cpu", "--set", "training.batch=4"]) == OK
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "basicblock_4_1-2-2-2/classifier"
    assert lines[1].startswith("3 classes, 12 train, 4 val images of 32x32; 1 epochs in ")
    assert [line for line in lines if line.startswith("top-1 ") and line.endswith("top-5 100.00 %")]
    assert lines[-1] == f"weights of the backbone: {out / 'backbone.pt'}"
    assert f"{root / 'val'}: no images of green" in printed.err
    assert run([*command, "--device", "cpu", "--set", "training.batch=4", "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["weights"] == str(out / "backbone.pt")

    command = ["train", code, "--data", str(data_file), "--out", str(tmp_path / "final"), "--epochs", "1"]
    command += ["--device", "cpu", "--set", "training.batch=8", "--set", f"weights={out / 'backbone.pt'}"]
    assert run([*command, "--out", str(tmp_path / "other")]) == MENDABLE
    assert "take weights of the same architecture and norm" in capsys.readouterr().err
    assert run([*command, "--norm", "bn"]) == OK
    assert capsys.readouterr().out.splitlines()[0] == code.replace("/gn_ws@", "@")
    assert run(["schema", "pretrain"]) == OK
    assert "augmentation" in json.loads(capsys.readouterr().out)["properties"]


def _not_a_checkpoint(folder: Path) -> str:
    path = folder / "other.pt"
    torch.save({"weights": torch.zeros(1)}, path)
    return str(path)


@pytest.mark.parametrize(
    "command",
    [
        ["describe", "resnet5/fpn/retinanet@64x64"],
        ["describe", "resnet18/2fc@512x512"],
        ["describe", "resnet18/fpn/retinanet@64x64"],
        ["describe", "retinanet_slim", "--input", "64"],
        ["describe", "retinanet_slim", "--classes", "0"],
        ["describe"],
        ["describe", "retinanet_slim", "--colour"],
        ["dscribe"],
        ["data", "check", "nosuch.yaml"],
        ["data", "convert", "nosuch.yaml", "--to", "coco", "--out", "out"],
        ["data", "convert", "synthetic", "--to", "csv", "--out", "out"],
        ["data", "convert", "synthetic", "--to", "coco"],
        ["data", "convert", "synthetic", "--to", "coco", "--out", "out", "--split", "nosuch"],
        ["train", TINY],
        ["train", TINY, "--data", "nosuch.yaml"],
        ["train", TINY, "--data", "synthetic", "--set", "training.epoch=1"],
        ["train", TINY, "--data", "synthetic", "--set", "training.epochs=many"],
        ["train", TINY, "--data", "synthetic", "--set", "weights=nosuch.pt"],
        ["train", TINY, "--data", "synthetic", "--device", "cuda:99"],
        ["train", TINY, "--data", "synthetic", "--device", "cpu", "--devices", "64", "--set", "training.batch=64"],
        ["train", "--study", "nosuch", "--trial", "0"],
        ["train", "--study", "nosuch"],
        ["train", "--study", "nosuch", "--trial", "0", TINY],
        ["train", TINY, "--data", "synthetic", "--norm", "ln"],
        ["train"],
        ["pretrain"],
        ["pretrain", "resnet18"],
        ["pretrain", "--data", "."],
        ["pretrain", "resnet18", "--data", "nosuch"],
        ["pretrain", "resnet18", "--data", "."],
        ["pretrain", "resnet5", "--data", "."],
        ["pretrain", "E0", "--data", ".", "--size", "8"],
        ["pretrain", "E0", "--data", ".", "--norm", "ln"],
        ["pretrain", "E0", "--data", ".", "--set", "training.smoothing=2"],
        ["pretrain", "E0", "--data", ".", "--device", "cuda:99"],
        ["pretrain", "--study", "nosuch", "--trial", "0", "--data", "."],
        ["pretrain", "--study", "nosuch", "--data", "."],
        ["pretrain", "E0", "--study", "nosuch", "--trial", "0"],
        ["train", TINY, "--data", "synthetic", "--set", "training.epochs=true"],
        ["train", TINY, "--data", "synthetic", "--set", "seed=2001-99-99"],
        ["describe", "resnet18"],
        ["search", "structure"],
        ["search", "structure", "--data", "synthetic", "--set", "weights=nosuch.pt"],
        ["search", "structure", "--data", "synthetic", "--set", "objectives=['cost:min']"],
        ["search", "structure", "--data", "synthetic", "--set", "space.input=[512x512, 8x8]"],
        ["search", "structure", "--recipe", "nosuch.yaml"],
        ["search", "modules", "--from", "nosuch", "--executor", "ray"],
        ["search", "modules", "--count", "2", "--data", "synthetic"],
        ["search", "all", "--recipe", "nosuch.yaml", "--workers", "2"],
        ["search", "structure", "--data", "synthetic", "--set", "space.backbone=[resnet5]"],
        ["search", "structure", "--data", "synthetic", "--set", "space.spine=[resnet18]"],
        ["search", "structure", "--data", "synthetic", "--set", "limits=[speed]"],
        ["describe", "fcos_r18_fpn(tower=cell)"],
        ["describe", "resnet18/fpn/fcos(tower=cells(boxes=std9(0)))@512x512"],
        ["search", "structure", "--data", "synthetic", "--set", "space={cells: {detector: faster_rcnn_r18_fpn}}"],
        ["study", "show", "nosuch"],
        ["study", "analyse", "nosuch"],
        ["study", "analyse"],
        ["report", "nosuch"],
        ["report", "nosuch", "--pictures", "gif"],
        ["eval", "nosuch.pt", "--data", "synthetic"],
        ["predict", "nosuch.pt", "a.jpg"],
        ["latency", "nosuch.pt"],
        ["latency", "retinanet_slim", "--device", "warp"],
        ["schema", "cake"],
    ],
    ids=" ".join,
)
def test_what_the_user_can_mend_is_one_line_and_2(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(command) == MENDABLE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    assert printed.err.startswith("detsearch: ")
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_a_file_that_is_no_checkpoint(tmp_path: Path, capsys: Out) -> None:
    assert run(["eval", _not_a_checkpoint(tmp_path), "--data", "synthetic"]) == MENDABLE
    assert "checkpoint" in capsys.readouterr().err


def test_a_defect_of_ours_is_1(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("in our code")

    monkeypatch.setattr("detsearch.runs.inspect.describe", broken)
    assert run(["describe", "retinanet_slim"]) == DEFECT
    assert "in our code" in capsys.readouterr().err


def test_a_search_that_trains_nothing_says_why(data_file: Path, tmp_path: Path, capsys: Out) -> None:
    backbone, neck, head, norm, size = TINY.replace("@", "/").split("/")
    space = f"space={{backbone: [{backbone}], neck: ['{neck}'], head: ['{head}'], norm: [{norm}], input: [{size}]}}"
    out = tmp_path / "study"
    command = ["search", "structure", "--data", str(data_file), "--out", str(out), "--device", "cpu", "--set", space]
    settings = ["limits=[params<=1]", "latency.seconds=0.01", "latency.runs=3", "latency.warmup=1"]
    assert run([*command, *(part for text in settings for part in ("--set", text))]) == MENDABLE
    printed = capsys.readouterr().err
    assert "a space of 1 detectors" in printed
    assert "trained candidate" in printed.splitlines()[-1]
    assert "params" in printed.splitlines()[-1]
    assert run(["report", str(out), "--json"]) == OK
    assert all(Path(path).is_file() for path in json.loads(capsys.readouterr().out)["report"])


def test_a_loss_that_diverges_ends_the_run_with_its_reason(data_file: Path, tmp_path: Path, capsys: Out) -> None:
    command = ["train", TINY, "--data", str(data_file), "--out", str(tmp_path / "run"), "--device", "cpu"]
    settings = [
        "--set",
        "training.lr=100",
        "--set",
        "training.base_batch=1",
        "--set",
        "training.clip_norm=null",
        "--set",
        "training.warmup_steps=0",
    ]
    assert (
        run([*command, *settings, "--set", "training.batch=8", "--set", "training.momentum=0.99", "--epochs", "40"])
        == DEFECT
    )
    assert "loss classification is nan" in capsys.readouterr().err
