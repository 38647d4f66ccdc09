"""Supernets in the heads of detectors."""

from __future__ import annotations

import pytest
import torch

from detsearch.arch.cells import PUBLISHED_BOXES, PUBLISHED_CLASSES, SETS
from detsearch.arch.code import format_network, parse_network
from detsearch.build import build
from detsearch.errors import SpecError
from detsearch.supernet.bilevel import Bilevel, alpha_optimiser
from detsearch.supernet.derive import Choice
from detsearch.supernet.detector import Supernet, SupernetSettings, build_supernet, with_cells
from tests.nn.scenes import random_images, random_targets, with_masks

BODY = "basicblock_8_1-2-2-2(stem=7x7)"
POOLED = f"{BODY}/fpn(levels=2-3-4-5-6,width=8,extra_from=pool)/rpn"
ONE_STAGE = {
    "fcos": f"{BODY}/fpn(width=8)/fcos(tower=cells(width=8))",
    "retinanet": f"{BODY}/fpn(width=8)/retinanet(tower=cells(width=8-16,order=parallel))",
}
TWO_STAGE = {
    "mask": f"{POOLED}/2fc(width=16,mask=mask(tower=cellgroup(width=8)))",
    "maskiou": f"{POOLED}/2fc(width=16,mask=mask(score=maskiou(hidden=16),tower=cellgroup(width=8)))",
    "cascade": f"{POOLED}/cascade(width=16,mask=mask(tower=cellgroup(width=8)))",
}
NETWORKS = {**ONE_STAGE, **TWO_STAGE}
CLASSES = 3
SIZES = [(64, 96), (90, 64)]
SHARED = SupernetSettings(operations=SETS["rf5"])


def scene(counts, *, masks):
    images = random_images(SIZES, (96, 96))
    targets = random_targets(counts, SIZES, CLASSES)
    return images, with_masks(targets, (96, 96)) if masks else targets


def made(name, settings=SHARED) -> Supernet:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    return build_supernet(parse_network(NETWORKS[name]), CLASSES, settings, generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
def test_steps(name):
    supernet = made(name)
    names = ["mask"] if name in TWO_STAGE else ["boxes", "classes"]
    assert list(supernet.groups) == list(supernet.architecture.alpha) == names
    detector = supernet.detector.train()
    own = {id(p) for p in supernet.architecture.parameters()}
    weights = torch.optim.SGD([p for p in detector.parameters() if id(p) not in own], lr=1e-3)
    search = Bilevel(detector, supernet.architecture, weights, alpha_optimiser(supernet.architecture))
    before = Choice.of(supernet.architecture, 0)
    for seed, counts in enumerate(([3, 2], [0, 0])):
        torch.manual_seed(seed)
        found = search.architecture_step(scene(counts, masks=name in TWO_STAGE))
        assert all(value >= 0 for value in found.values())
        search.weights_step(scene(counts, masks=name in TWO_STAGE))
    assert Choice.of(supernet.architecture, 1).weights != before.weights
    detector.eval()
    assert detector.detect(scene([1, 1], masks=False)[0]).boxes.isfinite().all()


@pytest.mark.parametrize("order", ["second", "exact"])
def test_a_mask_branch_can_be_looked_ahead_in(order):
    """Pooling of regions, through which the step of the weights goes, is differentiable twice."""
    supernet = made("mask")
    detector, alpha = supernet.detector.train(), supernet.architecture.alpha["mask"]
    weights = torch.optim.SGD([p for p in detector.parameters() if p is not alpha], lr=1e-3)
    search = Bilevel(detector, supernet.architecture, weights, alpha_optimiser(supernet.architecture), order=order)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    found = search.architecture_step(scene([3, 2], masks=True), scene([1, 3], masks=True))
    assert 0 < found["grad_norm"] < float("inf")
    changed = {name for name, tensor in detector.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"alpha"}


@pytest.mark.parametrize("name", ["fcos", "retinanet", "mask"])
@pytest.mark.parametrize("counts", [[2, 1], [0, 0]], ids=["objects", "none"])
def test_everything_gets_a_gradient(name, counts):
    supernet = made(name)
    losses = supernet.detector.train()(*scene(counts, masks=name in TWO_STAGE))
    torch.stack(list(losses.values())).sum().backward()
    missing = [name for name, p in supernet.detector.named_parameters() if p.grad is None]
    assert missing == []


def test_settings_reach_the_supernet():
    narrow = made("retinanet", SupernetSettings(repeats=2, nodes=2, operations=SETS["darts"], sharing="none"))
    boxes, classes = narrow.groups["boxes"], narrow.groups["classes"]
    assert boxes.alpha.shape == classes.alpha.shape == (5, 8)
    assert len(boxes.cells) == 2
    assert [edge.down.out_channels for edge in boxes.cells[0].edges()] == [8] * 5
    assert [edge.down.out_channels for edge in classes.cells[1].edges()] == [16] * 5
    assert narrow.detector.get_submodule("head.towers").order == "parallel"


def test_alpha_is_saved_with_the_detector():
    one, other = made("fcos"), made("fcos")
    with torch.no_grad():
        one.architecture.alpha["boxes"].fill_(0.5)
    other.detector.load_state_dict(one.detector.state_dict())
    assert bool((other.architecture.alpha["boxes"] == 0.5).all())


def test_forms_begin_alike():
    """Computed together or one by one, a seed gives the same detector."""
    images, targets = scene([2, 1], masks=False)
    one, other = (
        made("fcos", SupernetSettings(grouped=grouped)).detector.eval().losses(images, targets)
        for grouped in (True, False)
    )
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_a_head_s_own_convolutions_give_way():
    plain = parse_network(f"{BODY}/fpn(width=8)/fcos(width=16,depth=2,norm=bn)")
    supernet = build_supernet(plain, CLASSES, SHARED)
    assert list(supernet.groups) == ["boxes", "classes"]
    assert supernet.groups["boxes"].cells[0].edges()[0].down.out_channels == 96


@pytest.mark.parametrize("head", ["2fc", "cascade"])
def test_a_head_without_a_place_is_refused(head):
    with pytest.raises(SpecError, match=f"head.*{head}"):
        build_supernet(parse_network(f"resnet18/fpn/rpn/{head}"), 2, SHARED)


def test_cells_make_a_detector():
    cells = {"boxes": PUBLISHED_CLASSES, "classes": PUBLISHED_BOXES}
    network = with_cells(parse_network(ONE_STAGE["fcos"]), cells)
    assert network.head.tower.boxes == PUBLISHED_CLASSES
    assert network.head.tower.width == (8,)
    assert parse_network(format_network(network)) == network
    build(network, 2)
    mask = with_cells(parse_network(TWO_STAGE["maskiou"]), {"mask": PUBLISHED_BOXES})
    assert mask.head.mask.tower.cell == PUBLISHED_BOXES
    assert mask.head.mask.score is not None
    build(mask, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operations": ("std9",)}, "operations.*std9"),
        ({"operations": ()}, "operations.*none"),
        ({"operations": ("std1", "std1")}, "each once"),
        ({"operations": SETS["darts"]}, "none beside dsep3"),
        ({"sharing": "half"}, "sharing.*half"),
        ({"nodes": 0}, "nodes"),
        ({"repeats": 9}, "repeats"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(SpecError, match=message):
        SupernetSettings(**changes)
