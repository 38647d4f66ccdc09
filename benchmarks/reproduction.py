"""Every figure that SM-NAS and FAD publish and that needs no training, beside ours: docs/reproduction.md.

    python benchmarks/reproduction.py --out docs/reproduction.md

Takes half a minute on one core. Expected: the page as it stands, to which `tests/benchmarks/test_reproduction.py` holds
it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from detsearch.arch.cells import OPERATIONS, SETS
from detsearch.arch.modules.backbones import CLASSICAL, CodedResNetSpec
from detsearch.arch.presets import IMAGENET, preset, resolve
from detsearch.arch.published import PUBLISHED
from detsearch.arch.spaces.modular import ModularSpace
from detsearch.arch.spaces.structural import StructuralSpace
from detsearch.build import build, build_classifier
from detsearch.cost.count import count_classifier, count_cost
from detsearch.types import CostMetrics

CLOSE = 0.02
"""Figures that differ by more than this need an explanation."""

WIDER = {"E1": "basicblock_72_111-2111-2-111112", "E2": "basicblock_56_12-11111-211-1112"}
"""Codes that cost what the paper says of its own."""

INTRODUCTION = """\
# Published figures beside ours

Made by `python benchmarks/reproduction.py --out docs/reproduction.md`. Figures that need no training: counts,
parameters, multiply-accumulates (MACs), sizes of spaces. *Published* ones are the papers': SM-NAS (Yao et al., AAAI
2020) and FAD (Zhong et al., ECCV 2020). Ours are counted in the networks that this package builds, on the padded
input (800x600 becomes 800x608), by convolutions, linear layers and matrix products; norms, activations and biases
count nothing. What differs by more than 2 % is explained below its table."""

CLASSIFIER_NOTES = """\
- **E0, E3**: the stem is not published. With its first convolution at half the base and its second at the base, a
  bottleneck's output at four times its width, and a 1x1 projection on every shortcut whose shape changes, both come
  out. Of MACs the paper seems to count somewhat more (norms or activations):
  ResNet-18 and 101 below differ by as much.
- **E3, 3.11 G**: the paper's tables exclude each other. One gives 3.11 GMACs, another implies 6.11; the second fits.
- **ResNeXt-101**: the paper's row is called 32x4d. Its cost is that of 32x8d."""

BACKBONE_NOTES = """\
- **E1, E2**: the published MACs do not follow from the published codes. They would from other base widths, E1's from 72
  instead of 56 and E2's from 56 instead of 48, shown below them: then they are as near as the other backbones. The
  presets keep the codes as published and cost what stands here, so the paper's AP, latency and top-1 may belong to
  wider networks than our E1 and E2."""

SPACE_NOTES = """\
- **Structural**: the paper says about 1.1e4 and not which sets of levels. Every set of at least three of P2 to P7
  (42) or no neck, seven backbones, four inputs, and RetinaNet's head or either of two kinds of proposals with four
  heads: 10,836.
- **Modular**: the paper gives about 5.0e12 and no limits. Exactly three doublings, which every published code has, up
  to 102 blocks in four stages that are not empty, four bases and three widths: 5.1e12. Other limits that give about
  as many are possible.
- **FAD**: 13 choices (12 transformations and none) on each of the six kept edges of each of two cells. What can be
  derived is less by the choices of 'none' and more by the choices of edges."""

FAD_NOTES = """\
- **Backbone**: the paper's MACs fit a ResNet with its stride in the 1x1 convolution, so that is what is counted here;
  with it in the 3x3, as in torchvision and in our presets, FCOS costs 1.7 % more.
- **c' = 128 and 256**: the paper's total of the whole detector implies 13.2 M parameters for the module. From the
  published cell we get what stands here, and see no reading of the text under which it would be more.
- **Mask R-CNN**: the paper does not say how many regions its MACs are counted with; ours are 1,000 proposals and 100
  masks. The published mask cell exists as a drawing only; ours is our own. Its detector has 5.10 GMACs fewer than
  Mask R-CNN: 2.01 % as counted here, 1.98 % in the presets, whose backbone costs more."""


@dataclass(frozen=True)
class Row:
    """`what` was `published`, in the unit of `ours`; None where nothing was. `explained`: the notes say why the two
    differ."""

    what: str
    published: float | None
    ours: float
    unit: str = ""
    explained: bool = False

    def cells(self) -> tuple[str, str, str, str]:
        given = "–" if self.published is None else f"{written(self.published)} {self.unit}".strip()
        off = "" if self.published is None else f"{100 * (self.ours / self.published - 1):+.1f} %"
        return self.what, given, f"{written(self.ours)} {self.unit}".strip(), off


def written(value: float) -> str:
    if value == int(value) and value < 1e6:
        return f"{int(value):,}"
    return f"{value:.3g}" if value >= 1e6 else f"{value:.2f}"


def spaces() -> Iterator[Row]:
    yield Row("detectors of the structural space", 1.1e4, StructuralSpace.from_choices({}).size())
    modular = ModularSpace.from_section({"structure": "faster_rcnn_r18_fpn@512x512"})
    yield Row("codes and widths of the modular space", 5.0e12, modular.size(), explained=True)
    yield Row("transformations of FAD", 12, len(SETS["full"]))
    kept = 2 * 6
    yield Row("paths of FAD", 2.3e13, (len(SETS["full"]) + 1) ** kept)
    yield Row("representations of an edge without sharing", 26, sum(_representations(token) for token in SETS["full"]))
    yield Row("representations of an edge with RepShare", 12, _shared())
    for name, published in (("rf5", 4), ("rf7", 8), ("std", 6), ("sep", 6), ("darts", 7)):
        yield Row(f"operations of the set {name}", published, len(SETS[name]))


def _representations(token: str) -> int:
    """Convolutions of a transformation computed on its own."""
    operation = OPERATIONS[token]
    return operation.convs + (operation.dilation > 0)


def _shared() -> int:
    """The three of each stream's stem, and one for each transformation that ends in a dilated convolution."""
    dilated = [token for token in SETS["full"] if OPERATIONS[token].dilation]
    streams = {OPERATIONS[token].stream for token in SETS["full"]}
    return 3 * len(streams) + len(dilated)


def classifiers() -> Iterator[Row]:
    for name in PUBLISHED:
        found = _classifier(name)
        figures = PUBLISHED[name]
        params = None if figures.classifier_params is None else figures.classifier_params / 1e6
        macs = None if figures.classifier_macs is None else figures.classifier_macs / 1e9
        yield Row(f"{name}, parameters", params, found.params / 1e6, "M")
        if name != "E3":
            yield Row(f"{name}, MACs", macs, found.macs / 1e9, "G")
        else:
            for given in (3.11, 6.11):
                yield Row(f"{name}, MACs, given as {given} G", given, found.macs / 1e9, "G", explained=given == 3.11)
    for name in ("resnet18", "resnet34", "resnet101", "resnext101_32x4d", "resnext101_32x8d"):
        found = count_classifier(build_classifier(CLASSICAL[name], 1000), IMAGENET)
        yield Row(f"{name}, parameters", None, found.params / 1e6, "M")
        yield Row(f"{name}, MACs", None, found.macs / 1e9, "G")


def _classifier(name: str) -> CostMetrics:
    return count_classifier(build_classifier(preset(name).network.backbone, 1000), IMAGENET)


def backbones() -> Iterator[Row]:
    for name, figures in PUBLISHED.items():
        spec = preset(name)
        ours = _cost(name).parts["backbone"].macs
        published = None if figures.backbone_macs is None else figures.backbone_macs / 1e9
        yield Row(f"{name}, {spec.input}", published, ours / 1e9, "G", explained=name in ("E1", "E2"))
        if name in WIDER:
            wider = resolve(f"{WIDER[name]}/fpn/retinanet@{spec.input}").network.backbone
            assert isinstance(wider, CodedResNetSpec)
            macs = wider.macs(spec.input.padded())
            yield Row(f"{name} with base width {wider.code.base}", published, macs / 1e9, "G")
    for name, size, published in (
        ("resnet18", "512x512", 9.54),
        ("resnet34", "800x600", 35.68),
        ("resnet101", "800x600", 76.34),
    ):
        spec = resolve(f"{name}/fpn/retinanet@{size}")
        assert isinstance(spec.network.backbone, CodedResNetSpec)
        yield Row(f"{name}, {size}", published, spec.network.backbone.macs(spec.input.padded()) / 1e9, "G")


def wholes() -> Iterator[Row]:
    """Of the final detectors nothing static was published; this is what they cost here."""
    for name in PUBLISHED:
        found = _cost(name)
        yield Row(f"{name}, parameters", None, found.params / 1e6, "M")
        yield Row(f"{name}, MACs", None, found.macs / 1e9, "G")


def fad() -> Iterator[Row]:
    backbone, size = "resnet50(stride_in=1x1)", "1280x800"
    fcos = _cost(f"{backbone}/fpn/fcos@{size}")
    found = _cost(f"{backbone}/fpn/fcos(tower=cells)@{size}")
    wide = _cost(f"{backbone}/fpn/fcos(tower=cells(width=128-256))@{size}")
    for name, cost, of_head, of_whole in (
        ("FCOS", fcos, (4.9, 105), (32.2, 201)),
        ("with FAD", found, (4.1, 89), (31.5, 185)),
    ):
        head = cost.parts["head"]
        for what, counted, (params, macs) in (("sub-networks", head, of_head), ("whole", cost, of_whole)):
            yield Row(f"{name}, {what}, parameters", params, counted.params / 1e6, "M")
            yield Row(f"{name}, {what}, MACs", macs, counted.macs / 1e9, "G")
    yield Row("with FAD, c' = 128 and 256, sub-networks, parameters", 13.2, wide.parts["head"].params / 1e6, "M", True)
    pyramid = "fpn(levels=2-3-4-5-6,extra_from=pool)/rpn"
    for name, mask, params, macs in (
        ("Mask R-CNN", "mask", 44.3, 285),
        ("with FAD", "mask(tower=cellgroup)", 44.4, 287),
    ):
        cost = _cost(f"{backbone}/{pyramid}/2fc(mask={mask})@{size}")
        label = name if name == "Mask R-CNN" else f"Mask R-CNN {name}"
        yield Row(f"{label}, parameters", params, cost.params / 1e6, "M")
        yield Row(f"{label}, MACs", macs, cost.macs / 1e9, "G", explained=True)


@cache
def _cost(code: str) -> CostMetrics:
    spec = resolve(code)
    return count_cost(build(spec.network, 80), spec.input)


SECTIONS = (
    ("Spaces and counts", spaces, SPACE_NOTES),
    ("SM-NAS: backbones as classifiers, 224x224, 1,000 classes", classifiers, CLASSIFIER_NOTES),
    ("SM-NAS: MACs of the backbones at the detectors' inputs", backbones, BACKBONE_NOTES),
    ("SM-NAS: the whole detectors, 80 classes, 1,000 proposals", wholes, "Nothing was published of these."),
    ("FAD: 1280x800, 80 classes", fad, FAD_NOTES),
)


@cache
def tables() -> dict[str, list[Row]]:
    """The rows of every section, by its title."""
    return {title: list(rows()) for title, rows, _ in SECTIONS}


def page() -> str:
    """The document."""
    parts = [INTRODUCTION]
    for title, _, notes in SECTIONS:
        lines = ["| | published | ours | difference |", "|---|--:|--:|--:|"]
        lines += [f"| {' | '.join(row.cells())} |" for row in tables()[title]]
        parts += [f"## {title}", "\n".join(lines), notes]
    return "\n\n".join(parts) + "\n"


def unexplained() -> list[str]:
    """Rows that differ by more than 2 % and are not among what the notes are about."""
    found = (row for rows in tables().values() for row in rows if row.published is not None and not row.explained)
    return [row.what for row in found if not math.isclose(row.ours, row.published or 0, rel_tol=CLOSE)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file to write; stdout if not given")
    options = parser.parse_args()
    text = page()
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
