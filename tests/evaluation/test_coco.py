from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detsearch.data.datafile import load_datafile
from detsearch.data.dataset import Dataset
from detsearch.data.masks import decode, encode, to_runs
from detsearch.errors import DataError
from detsearch.evaluation.coco import coco_ap, coco_mask_ap
from detsearch.evaluation.predict import ImagePrediction
from tests.evaluation.cases import cases, dataset, mask_cases, perfect, prediction, record, with_masks

PRECISIONS = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
RECALLS = ["ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"]


def _oracle(
    data: Dataset, predictions: list[ImagePrediction], kind: str
) -> tuple[dict[str, float], dict[str, float | None]]:
    """The 12 numbers and AP per class by pycocotools, from the same values as COCO dictionaries; -1 left out."""
    masks = kind == "segm"
    truth = COCO()
    annotations = [
        {
            "id": 0,
            "image_id": r.image_id,
            "category_id": int(r.labels[i]),
            "bbox": _xywh(r.boxes[i]),
            "area": float(r.area[i]),
            "iscrowd": int(r.crowd[i]),
            **({"segmentation": r.segmentations[i].to_coco()} if masks else {}),
        }
        for r in data.records
        for i in range(len(r.labels))
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    truth.dataset = {
        "images": [{"id": r.image_id, "width": r.width, "height": r.height} for r in data.records],
        "categories": [{"id": k, "name": name} for k, name in enumerate(data.classes)],
        "annotations": annotations,
    }
    results = [
        {
            "image_id": p.image_id,
            "category_id": int(p.labels[i]),
            **({"segmentation": p.masks[i].to_coco()} if masks else {"bbox": _xywh(p.boxes[i])}),
            "score": float(p.scores[i] if not masks or p.mask_scores is None else p.mask_scores[i]),
        }
        for p in predictions
        for i in range(len(p))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(results) if results else COCO()
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    per_class: dict[str, float | None] = {}
    for k, name in enumerate(data.classes):
        precision = evaluation.eval["precision"][:, :, k, 0, 2]
        defined = precision[precision > -1]
        per_class[name] = float(defined.mean()) if defined.size else None
    return {n: float(v) for n, v in zip(PRECISIONS + RECALLS, evaluation.stats, strict=True) if v > -1}, per_class


def _xywh(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


def _agrees(data: Dataset, predictions: list[ImagePrediction], kind: str = "bbox") -> None:
    ours = (coco_ap if kind == "bbox" else coco_mask_ap)(data, predictions)
    numbers, per_class = _oracle(data, predictions, kind)
    assert ours.values() == pytest.approx(numbers, abs=1e-12)
    assert ours.per_class.keys() == per_class.keys()
    for name, value in per_class.items():
        assert ours.per_class[name] == (None if value is None else pytest.approx(value, abs=1e-12))


@hypothesis_settings(max_examples=150)
@given(cases())
def test_equals_pycocotools(case: tuple[Dataset, list[ImagePrediction]]) -> None:
    _agrees(*case)


@hypothesis_settings(max_examples=60)
@given(mask_cases())
def test_masks_equal_pycocotools(case: tuple[Dataset, list[ImagePrediction]]) -> None:
    _agrees(*case, kind="segm")


@hypothesis_settings(max_examples=5)
@given(cases(objects=40, extra=400))
def test_equals_pycocotools_beyond_the_limit_of_100_detections(case: tuple[Dataset, list[ImagePrediction]]) -> None:
    _agrees(*case)


def test_perfect_detections_have_ap_1_and_undefined_sizes_are_left_out() -> None:
    data = dataset(record(3, [[0, 0, 10, 10], [50, 50, 70, 70]], [0, 1]), record(1))
    accuracy = coco_ap(data, perfect(data))
    assert accuracy.values() == pytest.approx(
        dict.fromkeys(("ap", "ap50", "ap75", "ap_small", "ar_1", "ar_10", "ar_100", "ar_small"), 1.0)
    )
    assert accuracy.ap_large is None
    assert accuracy.per_class == pytest.approx({"class0": 1.0, "class1": 1.0})


def test_perfect_masks_in_wrong_boxes_have_mask_ap_1_and_ratings_rank() -> None:
    data = with_masks(dataset(record(3, [[0, 0, 10, 10], [50, 50, 70, 70]], [0, 0])))
    outlines = data.records[0].segmentations
    far = [[300, 300, 310, 310]] * 2
    found = replace(prediction(3, far, [0.9, 0.8], [0, 0]), masks=outlines)
    assert coco_mask_ap(data, [found]).ap == pytest.approx(1.0)
    assert coco_ap(data, [found]).ap == 0.0
    wrong = replace(prediction(3, far, [0.9, 0.8], [0, 0]), masks=(outlines[0], encode(np.zeros((480, 640)))))
    assert coco_mask_ap(data, [wrong]).ap50 == pytest.approx(51 / 101)
    rated = replace(wrong, mask_scores=np.array([0.1, 0.7]))
    assert coco_mask_ap(data, [rated]).ap50 == pytest.approx(51 / 101 / 2)


def test_no_masks_found_and_none_to_find() -> None:
    data = with_masks(dataset(record(1, [[0, 0, 10, 10]], [0])))
    for found in ([], [replace(prediction(1), masks=())]):
        assert coco_mask_ap(data, found).ap == 0.0
    assert coco_mask_ap(with_masks(dataset(record(1))), [replace(prediction(1), masks=())]).values() == {}


def test_masks_of_tiny_coco_are_worth_what_pycocotools_says(tiny_coco: Path, tmp_path: Path) -> None:
    """Every object found, its mask moved by some pixels; crowds among the objects."""
    (tmp_path / "data.yaml").write_text(
        f"format: coco\nroot: {tiny_coco}\nsplits:\n"
        "  val: {images: val2017, annotations: annotations/instances_val2017.json}\n"
    )
    data = load_datafile(tmp_path / "data.yaml").split("val", masks=True).subset(range(16))
    records = tuple(
        replace(r, segmentations=tuple(to_runs(s, r.width, r.height) for s in r.segmentations)) for r in data.records
    )
    found = []
    for number, r in enumerate(records):
        moved = np.roll(decode(r.segmentations, (r.width, r.height)).numpy(), number % 9, axis=2)
        masks = tuple(encode(mask) for mask in moved)
        found.append(replace(prediction(r.image_id, r.boxes, np.linspace(1, 0, len(masks)), r.labels), masks=masks))
    accuracy = coco_mask_ap(data, found)
    numbers, _ = _oracle(replace(data, records=records), found, "segm")
    assert accuracy.values() == pytest.approx(numbers, abs=1e-12)
    assert 0.3 < accuracy.ap < 0.95


def test_a_class_without_objects_is_undefined_and_does_not_count() -> None:
    data = dataset(record(1, [[0, 0, 10, 10]], [0]), classes=3)
    accuracy = coco_ap(data, [prediction(1, [[0, 0, 10, 10], [0, 0, 9, 9]], [0.9, 0.8], [0, 2])])
    assert accuracy.ap == pytest.approx(1.0)
    assert accuracy.per_class["class2"] is None


def test_detections_on_a_crowd_do_not_count_and_difficult_objects_do() -> None:
    boxes = [[0, 0, 100, 100], [200, 200, 240, 240]]
    crowd = dataset(record(1, boxes, [0, 0], crowd=[True, False]))
    found = [prediction(1, [[10, 10, 20, 20], [30, 30, 40, 40], boxes[1]], [0.9, 0.8, 0.7], [0, 0, 0])]
    assert coco_ap(crowd, found).ap == pytest.approx(1.0)
    assert coco_ap(dataset(record(1, boxes, [0, 0], difficult=[True, False])), found).ap50 == pytest.approx(
        1 / 6, abs=0.01
    )


@pytest.mark.parametrize("predictions", [[], [prediction(1)]])
def test_no_detections_are_ap_0(predictions: list[ImagePrediction]) -> None:
    accuracy = coco_ap(dataset(record(1, [[0, 0, 10, 10]], [0])), predictions)
    assert accuracy.ap == 0.0
    assert accuracy.ar_100 == 0.0


@pytest.mark.parametrize("predictions", [[], [prediction(1, [[0, 0, 5, 5]], [0.5], [0])]])
def test_a_dataset_without_any_box_has_no_accuracy(predictions: list[ImagePrediction]) -> None:
    accuracy = coco_ap(dataset(record(1), record(2)), predictions)
    assert accuracy.values() == {}
    assert set(accuracy.per_class.values()) == {None}


def test_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    data = dataset(record(1, [[0, 0, 10, 10]], [0]))
    coco_ap(data, perfect(data))
    assert capfd.readouterr() == ("", "")


BOX = [[0, 0, 10, 10]]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([prediction(9, BOX, [0.5], [0])], "image 9: expected one of the dataset's 1 image ids"),
        ([prediction(1), prediction(1)], "image 1: expected one entry per image"),
        ([prediction(1, BOX, [0.5], [2])], r"labels in 0\.\.1, got 2"),
        ([prediction(1, BOX, [0.5], [-1])], r"labels in 0\.\.1, got -1"),
        ([prediction(1, BOX, [np.nan], [0])], "finite"),
        ([prediction(1, [[0, 0, np.inf, 1]], [0.5], [0])], "finite"),
        ([replace(prediction(1, BOX, [0.5], [0]), mask_scores=np.array([np.nan]))], "finite"),
    ],
)
def test_predictions_of_another_dataset_are_refused(predictions: list[ImagePrediction], message: str) -> None:
    with pytest.raises(DataError, match=message):
        coco_ap(dataset(record(1, BOX, [0])), predictions)
