from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from detsearch.evaluation.classification import classify, ranks
from detsearch.nn.structures import ImageBatch

NAN = math.nan


class Table(nn.Module):
    """Answers with the rows that the first pixel of each image names."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.table = torch.tensor(logits)
        self.modes: list[bool] = []

    def logits(self, images: ImageBatch) -> Tensor:
        self.modes.append(self.training)
        return self.table[images.pixels[:, 0, 0, 0].long()]


def batches(labels: list[int], size: int) -> Iterator[tuple[ImageBatch, Tensor]]:
    rows = torch.arange(len(labels), dtype=torch.uint8)
    for some in rows.split(size):
        pixels = some.view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
        yield ImageBatch(pixels, torch.full((len(some), 2), 4)), torch.tensor(labels)[some.long()]


def accuracy(logits: list[list[float]], labels: list[int], size: int = 2) -> tuple[float, float]:
    classifier = Table(logits)
    found = classify(classifier, batches(labels, size), "cpu")  # type: ignore[arg-type]
    assert set(classifier.modes) == {False}
    assert found.values() == {"top1": found.top1, "top5": found.top5}
    return found.top1, found.top5


@pytest.mark.parametrize("size", [1, 2, 5])
def test_by_hand(size: int) -> None:
    """Five images, seven classes; of the last batch there is less."""
    logits = [
        [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],  # 0 is first
        [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],  # 3 is fifth
        [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],  # 2 is sixth
        [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -0.5],  # 6 is first
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],  # 0 is second, before those equal to it
    ]
    assert accuracy(logits, [0, 3, 2, 6, 0], size) == (2 / 5, 4 / 5)


def test_ties_go_to_the_lower_label() -> None:
    """As argmax has it: a network that always says the same is right by chance, not always."""
    logits = torch.zeros(7, 7)
    assert ranks(logits, torch.arange(7)).tolist() == list(range(7))
    assert accuracy(logits.tolist(), list(range(7))) == (1 / 7, 5 / 7)
    assert ranks(torch.tensor([[1.0, 2.0, 2.0, 2.0]] * 4), torch.arange(4)).tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("classes", [1, 2, 4, 5])
def test_of_five_classes_or_fewer_all_are_among_the_first_five(classes: int) -> None:
    logits = [[float(-abs(i - 1)) for i in range(classes)]] * classes
    top1, top5 = accuracy(logits, list(range(classes)))
    assert (top1, top5) == (1 / classes, 1.0)


def test_what_is_no_number_is_not_right() -> None:
    logits = [[NAN] * 6, [1.0, NAN, 0.0, 0.0, 0.0, 0.0], [NAN, 1.0, 0.0, 0.0, 0.0, 0.0]]
    assert ranks(torch.tensor(logits), torch.tensor([0, 0, 0])).tolist() == [6, 1, 6]
    assert accuracy(logits, [0, 1, 0]) == (0.0, 0.0)
    infinite = torch.tensor([[math.inf, -math.inf, 0.0]])
    assert [int(ranks(infinite, torch.tensor([label]))) for label in range(3)] == [0, 2, 1]


@given(st.lists(st.lists(st.integers(-2, 2), min_size=7, max_size=7), min_size=1, max_size=6), st.data())
def test_ranks_are_places_in_a_stable_order(rows: list[list[int]], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(0, 6), min_size=len(rows), max_size=len(rows)))
    expected = [sorted(range(7), key=lambda i: -row[i]).index(label) for row, label in zip(rows, labels, strict=True)]
    assert ranks(torch.tensor(rows).float(), torch.tensor(labels)).tolist() == expected
