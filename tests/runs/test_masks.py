"""Runs of detectors that draw masks: trained on masks, scored on masks, and told in time where there are none."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from detsearch.arch.code import parse_detector
from detsearch.data.dataset import Dataset
from detsearch.errors import DataError, RecipeError
from detsearch.nn.structures import Detections, ImageBatch
from detsearch.runs.candidate import TrainedCandidates
from detsearch.runs.checks import check_mask_objectives
from detsearch.runs.data import load_split
from detsearch.runs.identity import summary
from detsearch.runs.predict import evaluate_checkpoint, predict_images
from detsearch.runs.recipe import load_recipe
from detsearch.runs.score import score
from detsearch.runs.search import search_structure
from detsearch.runs.settings import SearchRecipe, TrainRecipe
from detsearch.runs.train import train_recipe
from detsearch.search.objective import OF_MASKS, Objective
from detsearch.search.trial import TrialContext
from detsearch.types import Fidelity, InputSize
from tests.runs.conftest import MASKED, TINY

NEVER = {"mask_ap_medium", "mask_ap_large", "mask_ar_medium", "mask_ar_large"}  # no objects of these sizes


def _recipe(data_file: Path, *settings: str, detector: str = MASKED) -> TrainRecipe:
    options = {"detector": detector, "data.file": str(data_file), "data.test": "test", "device": "cpu"}
    return load_recipe(TrainRecipe, None, ["training.epochs=2", "training.batch=4", *settings], options)


@pytest.fixture
def boxes_file(tmp_path: Path, data_file: Path) -> Path:
    """The same images as COCO, without outlines."""
    splits = {}
    for split in ("train", "val", "test"):
        dataset = load_split(str(data_file), split)
        (tmp_path / "coco" / split).mkdir(parents=True)
        images, objects = [], []
        for record in dataset.records:
            name = f"{record.image_id}.png"
            Image.fromarray(record.load().permute(1, 2, 0).numpy()).save(tmp_path / "coco" / split / name)
            images.append({"id": record.image_id, "file_name": name, "width": record.width, "height": record.height})
            for (x1, y1, x2, y2), label, area in zip(record.boxes.tolist(), record.labels, record.area, strict=True):
                box = {"image_id": record.image_id, "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}
                objects.append({"id": len(objects) + 1, "area": float(area), **box})
        names = [{"id": label, "name": name} for label, name in enumerate(dataset.classes)]
        content = {"images": images, "annotations": objects, "categories": names}
        (tmp_path / "coco" / f"{split}.json").write_text(json.dumps(content))
        splits[split] = {"images": split, "annotations": f"{split}.json"}
    path = tmp_path / "boxes.yaml"
    path.write_text(yaml.safe_dump({"format": "coco", "root": "coco", "splits": splits}))
    return path


def test_from_recipe_to_figures_of_masks(tmp_path: Path, data_file: Path, boxes_file: Path) -> None:
    out = tmp_path / "run"
    found = train_recipe(_recipe(data_file, "training.eval_epochs=1"), out)
    for figures in found["scores"].values():
        assert {name for name in figures if name.startswith("mask_")} == OF_MASKS | {"mask_per_class"}
        assert all(0 <= figures[name] <= 1 for name in OF_MASKS - NEVER)
    first = json.loads((out / "log.jsonl").read_text().splitlines()[0])
    assert "mask" in first["losses"]
    assert "mask_ap" in first["metrics"]

    checkpoint = out / "checkpoint.pt"
    scored = evaluate_checkpoint(checkpoint, str(data_file), "test", None, device="cpu", batch=2)
    assert {name: scored[name] for name in OF_MASKS} == {name: found["scores"]["test"][name] for name in OF_MASKS}
    assert "note" not in scored
    bare = evaluate_checkpoint(checkpoint, str(boxes_file), "test", None, device="cpu", batch=2)
    assert bare["ap"] == scored["ap"]
    assert not any(name.startswith("mask_") for name in bare)
    assert bare["note"] == "boxes only: the split has no masks"

    (answer,) = predict_images(checkpoint, [tmp_path / "coco" / "val" / "1.png"], None, device="cpu")
    prediction = answer[1]
    assert prediction.masks is not None
    assert len(prediction.masks) == len(prediction)
    assert {(mask.width, mask.height) for mask in prediction.masks} <= {(64, 64)}


def test_figures_of_masks_are_nowhere_without_a_mask_branch(tmp_path: Path, data_file: Path) -> None:
    found = train_recipe(_recipe(data_file, "training.epochs=1", detector=TINY), tmp_path / "run")
    assert not any(name.startswith("mask_") for figures in found["scores"].values() for name in figures)


def test_data_without_masks_are_refused_before_time_is_spent(tmp_path: Path, boxes_file: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(DataError, match=r"boxes\.yaml: split train: expected masks, for the mask branch") as caught:
        train_recipe(_recipe(boxes_file), out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert train_recipe(_recipe(boxes_file, "training.epochs=1", detector=TINY), out)["steps"] == 2


class _FullBoxes:
    """Answers the first object's box, filled or empty."""

    name, device, precision, threads = "fake", "cpu", "float32", 1

    def __init__(self, dataset: Dataset, probability: float | None) -> None:
        self.boxes = iter(torch.from_numpy(record.boxes[:1]) for record in dataset.records)
        self.labels = iter(torch.from_numpy(record.labels[:1]) for record in dataset.records)
        self.probability = probability

    def __call__(self, images: ImageBatch) -> Detections:
        boxes, labels = next(self.boxes)[None], next(self.labels)[None]
        masks = None if self.probability is None else torch.full((1, 1, 4, 4), self.probability)
        return Detections(boxes, torch.ones(1, 1), labels, torch.ones(1, 1, dtype=torch.bool), masks)

    def synchronize(self) -> None:
        pass

    def nominal_load(self) -> nullcontext[None]:
        return nullcontext()


def test_boxes_and_masks_are_scored_apart(data_file: Path) -> None:
    masked, plain = load_split(str(data_file), "val", True), load_split(str(data_file), "val")
    size = InputSize(64, 64)
    empty, full, none = (
        score(_FullBoxes(masked, probability), size, masked, batch=1).values() for probability in (0.0, 1.0, None)
    )
    assert empty["ap"] == full["ap"] == none["ap"] > 0
    assert empty["mask_ap"] == 0.0
    assert 0 < full["mask_ap50"] <= 1
    assert "mask_ap" not in none
    assert "mask_ap" not in score(_FullBoxes(plain, 1.0), size, plain, batch=1).values()


def _search(path: Path, data_file: Path, objectives: list[str], masked: bool) -> SearchRecipe:
    backbone, neck, proposals, head, _ = MASKED.replace("@", "/").split("/")[:5]
    plain = head.split(",mask=")[0] + ")"
    recipe: dict[str, Any] = {
        "data": {"file": str(data_file), "test": "test"},
        "space": {
            "backbone": [backbone],
            "neck": [neck],
            "proposals": [proposals],
            "head": [head] if masked else [head, plain],
            "norm": ["gn"],
            "input": ["64x64"],
        },
        "objectives": objectives,
        "training": {"epochs": 1, "batch": 4, "warmup_steps": 1},
        "search": {"initial": 2, "prune": False},
        "budget": {"trials": 2},
        "latency": {"warmup": 1, "runs": 3, "seconds": 0.01},
        "device": "cpu",
    }
    path.write_text(yaml.safe_dump(recipe))
    return load_recipe(SearchRecipe, path)


def test_candidates_with_and_without_masks_are_trained_beside_each_other(tmp_path: Path, data_file: Path) -> None:
    recipe = _search(tmp_path / "s.yaml", data_file, ["ap:max", "params:min"], masked=False)
    candidates = TrainedCandidates(recipe, 5, "cpu", masks=True)
    for code in (MASKED, TINY):
        spec = parse_detector(code)
        context = TrialContext(folder=tmp_path / code.split("/")[2], device="cpu")
        context.folder.mkdir()
        found = set(candidates.evaluate(spec, Fidelity(1), 0, context).values)
        assert found & OF_MASKS >= OF_MASKS - NEVER if spec.network.has_masks else not found & OF_MASKS
        assert "ap" in found


def test_an_objective_about_masks_needs_masks_everywhere(tmp_path: Path, data_file: Path) -> None:
    mixed = _search(tmp_path / "mixed.yaml", data_file, ["mask_ap:max", "params:min"], masked=False)
    with pytest.raises(RecipeError, match="objective mask_ap:max: expected a mask branch in every detector"):
        search_structure(mixed, tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()
    masked, bare = (parse_detector(code).network for code in (MASKED, TINY))
    check_mask_objectives([Objective.parse("mask_ap50")], [masked, masked])
    check_mask_objectives([Objective.parse("ap:max")], [masked, bare])


def test_a_search_without_masks_in_the_data_is_refused(tmp_path: Path, boxes_file: Path) -> None:
    with pytest.raises(DataError, match="masks"):
        search_structure(_search(tmp_path / "s.yaml", boxes_file, ["ap:max"], masked=False), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_outlines_are_part_of_what_a_split_is(data_file: Path) -> None:
    plain, masked = load_split(str(data_file), "val"), load_split(str(data_file), "val", True)
    assert summary(plain)["digest"] != summary(masked)["digest"]
    assert summary(plain)["boxes"] == summary(masked)["boxes"]
