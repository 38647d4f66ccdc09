"""Figures as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def accuracy_lines(split: str, accuracy: Mapping[str, Any]) -> Iterator[str]:
    """COCO's numbers in percent, then AP by class, then VOC's."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100")
    yield f"{split}: " + ", ".join(f"{name.upper().replace('_', ' ')} {percent(accuracy[name])}" for name in names)
    if accuracy["per_class"]:
        yield "  by class: " + ", ".join(f"{name} {percent(value)}" for name, value in accuracy["per_class"].items())
    how = {"area": "area under the curve", "11points": "mean of 11 points"}[accuracy["voc_convention"]]
    yield f"  VOC AP50 ({how}): {percent(accuracy['voc_ap50'])}"
