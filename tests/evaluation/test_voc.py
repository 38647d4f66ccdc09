from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from detsearch.data.dataset import Dataset
from detsearch.errors import DataError
from detsearch.evaluation.predict import ImagePrediction
from detsearch.evaluation.voc import average_precision, voc_ap
from tests.evaluation.cases import cases, dataset, perfect, prediction, record


def _iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


def _plain(data: Dataset, predictions: list[ImagePrediction], label: int) -> float | None:
    """AP of a class, word for word: one pass over all detections, then the area by the definition of the envelope."""
    positions = {r.image_id: i for i, r in enumerate(data.records)}
    found = sorted(
        (
            (-float(p.scores[i]), positions[p.image_id], i, p.image_id, p.boxes[i].tolist())
            for p in predictions
            for i in range(len(p))
            if p.labels[i] == label
        ),
        key=lambda entry: entry[:3],
    )
    truth = {
        r.image_id: [
            (r.boxes[i].tolist(), bool(r.difficult[i] or r.crowd[i]))
            for i in range(len(r.labels))
            if r.labels[i] == label
        ]
        for r in data.records
    }
    total = sum(not ignored for objects in truth.values() for _, ignored in objects)
    if total == 0:
        return None
    claimed: set[tuple[int, int]] = set()
    outcomes: list[bool] = []
    for *_, image_id, box in found:
        objects = truth[image_id]
        overlaps = [_iou(box, there) for there, _ in objects]
        best = max(range(len(objects)), key=lambda j: overlaps[j], default=-1)
        if best < 0 or overlaps[best] < 0.5:
            outcomes.append(False)
        elif not objects[best][1]:
            outcomes.append((image_id, best) not in claimed)
            claimed.add((image_id, best))
    curve, hits = [], 0
    for n, outcome in enumerate(outcomes, start=1):
        hits += outcome
        curve.append((Fraction(hits, total), Fraction(hits, n)))
    area = sum(
        (
            Fraction(1, total) * max((p for r, p in curve if r >= Fraction(k, total)), default=Fraction(0))
            for k in range(1, total + 1)
        ),
        Fraction(0),
    )
    return float(area)


@hypothesis_settings(max_examples=150)
@given(cases())
def test_equals_the_plain_definition(case: tuple[Dataset, list[ImagePrediction]]) -> None:
    data, predictions = case
    accuracy = voc_ap(data, predictions)
    plain = {name: _plain(data, predictions, k) for k, name in enumerate(data.classes)}
    for name, value in plain.items():
        assert accuracy.per_class[name] == (None if value is None else pytest.approx(value, abs=1e-9))
    defined = [value for value in plain.values() if value is not None]
    assert accuracy.ap50 == (pytest.approx(np.mean(defined), abs=1e-9) if defined else None)


def test_a_curve_by_hand() -> None:
    # right, wrong, right of 3 objects: precision 1 up to recall 1/3, then 2/3 up to 2/3, nothing after.
    area = average_precision([np.array([0.9, 0.7]), np.array([0.8])], [np.array([True, True]), np.array([False])], 3)
    assert area == pytest.approx(1 / 3 + 2 / 3 / 3)


def test_the_threshold_is_met_at_half() -> None:
    data = dataset(record(1, [[0, 0, 10, 10]], [0]), classes=1)
    assert voc_ap(data, [prediction(1, [[0, 0, 10, 5]], [0.5], [0])]).ap50 == 1.0
    assert voc_ap(data, [prediction(1, [[0, 0, 10, 4.99]], [0.5], [0])]).ap50 == 0.0


def test_difficult_objects_are_neither_missed_nor_found() -> None:
    data = dataset(record(1, [[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], difficult=[True, False]), classes=1)
    only_easy = [prediction(1, [[50, 50, 60, 60]], [0.5], [0])]
    both = [prediction(1, [[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], [0.9, 0.8, 0.5], [0, 0, 0])]
    assert voc_ap(data, only_easy).ap50 == 1.0
    assert voc_ap(data, both).ap50 == 1.0


def test_a_second_detection_of_an_object_is_wrong() -> None:
    data = dataset(record(1, [[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0]), classes=1)
    found = [prediction(1, [[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], [0.9, 0.8, 0.5], [0, 0, 0])]
    assert voc_ap(data, found).ap50 == pytest.approx(1 / 2 + 2 / 3 / 2)


def test_nothing_found_and_nothing_there() -> None:
    assert voc_ap(dataset(record(1, [[0, 0, 10, 10]], [0])), []).values() == {"voc_ap50": 0.0}
    empty = dataset(record(1))
    assert voc_ap(empty, [prediction(1, [[0, 0, 10, 10]], [0.5], [0])]).values() == {}
    assert voc_ap(empty, perfect(empty)).ap50 is None


def test_an_unknown_image_is_refused() -> None:
    with pytest.raises(DataError, match="image 2"):
        voc_ap(dataset(record(1)), [prediction(2)])
