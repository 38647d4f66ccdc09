from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from detsearch.data.dataset import Dataset
from detsearch.errors import DataError
from detsearch.evaluation import voc
from detsearch.evaluation.predict import ImagePrediction
from detsearch.evaluation.voc import Convention, average_precision, voc_ap
from tests.evaluation.cases import cases, dataset, perfect, prediction, record


def _iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


def _plain(data: Dataset, predictions: list[ImagePrediction], label: int) -> tuple[float, float] | None:
    """AP of a class by both conventions, word for word: one pass over all detections, then the area by the definition
    of the envelope, and the mean over eleven recalls."""
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

    def best_from(recall: Fraction) -> Fraction:
        return max((p for r, p in curve if r >= recall), default=Fraction(0))

    area = sum((best_from(Fraction(k, total)) / total for k in range(1, total + 1)), Fraction(0))
    points = sum((best_from(Fraction(k, 10)) / 11 for k in range(11)), Fraction(0))
    return float(area), float(points)


@hypothesis_settings(max_examples=150)
@given(cases())
def test_equals_the_plain_definition(case: tuple[Dataset, list[ImagePrediction]]) -> None:
    data, predictions = case
    plain = {name: _plain(data, predictions, k) for k, name in enumerate(data.classes)}
    conventions: tuple[Convention, ...] = ("area", "11points")
    for i, convention in enumerate(conventions):
        accuracy = voc_ap(data, predictions, convention=convention)
        for name, value in plain.items():
            assert accuracy.per_class[name] == (None if value is None else pytest.approx(value[i], abs=1e-9))
        defined = [value[i] for value in plain.values() if value is not None]
        assert accuracy.ap50 == (pytest.approx(np.mean(defined), abs=1e-9) if defined else None)
        assert accuracy.convention == convention


@hypothesis_settings(max_examples=40)
@given(cases())
def test_blocks_make_no_difference(case: tuple[Dataset, list[ImagePrediction]]) -> None:
    whole = voc_ap(*case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voc, "MAX_PAIRS", 5)
        assert voc_ap(*case) == whole


def test_a_curve_by_hand() -> None:
    # right, wrong, right of 3 objects: precision 1 up to recall 1/3, then 2/3 up to 2/3, nothing after.
    hits = np.array([True, False, True])
    assert average_precision(hits, 3) == pytest.approx(1 / 3 + 2 / 3 / 3)
    # 1 at 0, 0.1, 0.2, 0.3; 2/3 at 0.4, 0.5, 0.6; 0 at the other four
    assert average_precision(hits, 3, "11points") == pytest.approx((4 + 3 * 2 / 3) / 11)


def test_all_and_nothing() -> None:
    conventions: tuple[Convention, ...] = ("area", "11points")
    for convention in conventions:
        assert average_precision(np.ones(7, np.bool_), 7, convention) == 1.0
        assert average_precision(np.zeros(7, np.bool_), 7, convention) == 0.0
        assert average_precision(np.zeros(0, np.bool_), 7, convention) == 0.0
        assert average_precision(np.ones(7, np.bool_), 0, convention) is None


@pytest.mark.parametrize("tenths", range(11))
def test_a_recall_of_whole_tenths_is_reached(tenths: int) -> None:
    """3 of 10 found is a recall of 0.3, which floating point may put below 3 times 0.1."""
    for objects in (10, 30, 70):
        hits = np.ones(tenths * objects // 10, np.bool_)
        reached = tenths + 1 if tenths else 0
        assert average_precision(hits, objects, "11points") == pytest.approx(reached / 11)


def _devkit_iou(a: tuple[int, ...], b: tuple[int, ...]) -> Fraction:
    """Of boxes in VOC's pixel numbers, both ends included, word for word as the devkit has it."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    inter = width * height if width > 0 and height > 0 else 0
    areas = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return Fraction(inter, areas - inter)


@given(st.tuples(*[st.tuples(*[st.integers(1, 12)] * 4)] * 2))
def test_iou_is_the_devkits_with_its_plus_one(corners: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = ((min(x1, x2), min(y1, y2), max(x1, x2) + 1, max(y1, y2) + 1) for x1, y1, x2, y2 in corners)
    exact = _devkit_iou(a, b)
    inner = [[x1 - 1, y1 - 1, x2, y2] for x1, y1, x2, y2 in (a, b)]  # as the reader of VOC makes them
    data = dataset(record(1, [inner[0]], [0]), classes=1)
    found = [prediction(1, [inner[1]], [0.5], [0])]
    if exact > 0:
        assert voc_ap(data, found, iou=float(exact) - 1e-9).ap50 == 1.0
    assert voc_ap(data, found, iou=float(exact) + 1e-9).ap50 == 0.0


def test_the_plus_one_decides_where_boxes_are_small() -> None:
    """Pixels 1..4 and 3..6 across, 1..3 down: 2 of 6 columns are shared, a third; without the + 1, 1 of 5."""
    assert _devkit_iou((1, 1, 4, 3), (3, 1, 6, 3)) == Fraction(1, 3)
    data = dataset(record(1, [[0, 0, 4, 3]], [0]), classes=1)
    found = [prediction(1, [[2, 0, 6, 3]], [0.5], [0])]
    assert voc_ap(data, found, iou=0.3333).ap50 == 1.0
    assert voc_ap(data, found, iou=0.3334).ap50 == 0.0


def test_the_threshold_is_met_at_half() -> None:
    data = dataset(record(1, [[0, 0, 10, 10]], [0]), classes=1)
    assert voc_ap(data, [prediction(1, [[0, 0, 10, 5]], [0.5], [0])]).ap50 == 1.0
    assert voc_ap(data, [prediction(1, [[0, 0, 10, 4.99]], [0.5], [0])]).ap50 == 0.0


def test_a_detection_looks_at_the_difficult_object_that_it_overlaps_most() -> None:
    """And then it does not count, though it also meets the threshold with one that is not difficult."""
    data = dataset(record(1, [[0, 0, 10, 10], [0, 0, 10, 8]], [0, 0], difficult=[True, False]), classes=1)
    assert voc_ap(data, [prediction(1, [[0, 0, 10, 10]], [0.9], [0])]).ap50 == 0.0
    both = [prediction(1, [[0, 0, 10, 10], [0, 0, 10, 8]], [0.9, 0.8], [0, 0])]
    assert voc_ap(data, both).ap50 == 1.0


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
