"""Figures as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detsearch.cli.output import quantity


def accuracy_lines(split: str, accuracy: Mapping[str, Any]) -> Iterator[str]:
    """COCO's numbers in percent, then AP by class, then VOC's; the same of masks, where there are any."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100")

    def lines(title: str, prefix: str) -> Iterator[str]:
        figures = (f"{name.upper().replace('_', ' ')} {percent(accuracy[prefix + name])}" for name in names)
        yield f"{title}: {', '.join(figures)}"
        if by_class := accuracy[f"{prefix}per_class"]:
            yield "  by class: " + ", ".join(f"{name} {percent(value)}" for name, value in by_class.items())

    yield from lines(split, "")
    how = {"area": "area under the curve", "11points": "mean of 11 points"}[accuracy["voc_convention"]]
    yield f"  VOC AP50 ({how}): {percent(accuracy['voc_ap50'])}"
    if "mask_ap" in accuracy:
        yield from lines(f"{split}, masks", "mask_")
    if "note" in accuracy:
        yield f"  {accuracy['note']}"


def published_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """What a paper says of its detector, as lines that say so."""
    yield f"published by {figures['source']}, not measured here:"
    yield f"  AP {100 * figures['ap']:.1f} on COCO val, {figures['latency_ms']:g} ms on a {figures['latency_device']}"
    if "backbone_macs" in figures:
        yield f"  backbone at {figures['input']}: {quantity(figures['backbone_macs'])} MACs"
    classifier = [f"top-1 {100 * figures['top1']:.2f} %"]
    for name, unit in (("classifier_params", "parameters"), ("classifier_macs", "MACs")):
        if name in figures:
            classifier.append(f"{quantity(figures[name])} {unit}")
    yield f"  backbone as an ImageNet classifier at {figures['classifier_input']}: {', '.join(classifier)}"
