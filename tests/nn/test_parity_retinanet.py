"""RetinaNet-R50-FPN here and torchvision's, same state and same preprocessed batch: same detections, same losses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.errors import CheckpointError
from detsearch.nn.backbones.weights import load_strictly, read_state
from detsearch.nn.detector import Detector
from detsearch.nn.structures import Detections, ImageBatch
from detsearch.nn.torchvision_weights import from_torchvision, to_torchvision
from tests.nn.scenes import random_targets

CLASSES = 6
THRESHOLD = 0.3
CASES = {
    "landscape": ([(96, 160)], (96, 160)),
    "portrait": ([(150, 90)], (160, 96)),
    "two of different sizes": ([(90, 128), (96, 101)], (96, 128)),
    "no multiple of 32": ([(101, 133)], (101, 133)),
}


class Preprocessed(nn.Module):
    """Stands for torchvision's own resizing and normalising: hands the batch through."""

    def __init__(self, batch: ImageBatch) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, images: list[Tensor], targets: Any) -> tuple[ImageList, Any]:
        return ImageList(self.batch.pixels, [tuple(size) for size in self.batch.sizes.tolist()]), targets

    def postprocess(self, result: Any, *_: Any) -> Any:
        return result


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """torchvision's network with plausible statistics in its norms and a class bias that lets many anchors answer."""
    torch.manual_seed(7)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES, score_thresh=THRESHOLD)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
    with torch.no_grad():
        model.train().backbone(torch.randn(2, 3, 96, 128))
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and not name.startswith("backbone.body"):
                parameter.normal_(std=0.1)
        head = model.head
        for tower in (head.classification_head.conv, head.regression_head.conv):
            for layer in tower:
                layer[0].weight.normal_(std=0.02)
        head.classification_head.cls_logits.weight.normal_(std=0.02)
        head.regression_head.bbox_reg.weight.normal_(std=0.002)
        head.classification_head.cls_logits.bias.normal_(mean=-1.0, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def detector(reference: nn.Module) -> Detector:
    ours = build(parse_network("resnet50/fpn/retinanet"), CLASSES)
    load_strictly(ours, from_torchvision(reference.state_dict()), "torchvision")
    ours.head.score_threshold = THRESHOLD  # type: ignore[attr-defined]
    return ours.eval()


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def pair(request: pytest.FixtureRequest, reference: nn.Module, detector: Detector) -> Iterator[tuple[Any, Detector]]:
    yield reference.to(request.param), detector.to(request.param)
    # A detour over float64 loses nothing, so that the float32 state is as before.
    reference.float()
    detector.float()


def _batch(case: str, dtype: torch.dtype) -> ImageBatch:
    sizes, padded = CASES[case]
    pixels = torch.zeros((len(sizes), 3, *padded), dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    for i, (height, width) in enumerate(sizes):
        pixels[i, :, :height, :width] = torch.randn((3, height, width), generator=generator, dtype=dtype)
    return ImageBatch(pixels, torch.tensor(sizes))


@pytest.mark.parametrize("case", CASES)
def test_detections(case: str, pair: tuple[Any, Detector]) -> None:
    reference, detector = pair
    batch = _batch(case, next(detector.parameters()).dtype)
    reference.transform = Preprocessed(batch)
    with torch.no_grad():
        theirs = reference(list(batch.pixels))
    ours = detector.detect(batch)
    for i, their in enumerate(theirs):
        assert len(their["boxes"]) >= 50
        _same(ours, i, their, exact=batch.pixels.dtype == torch.float64)


def _same(ours: Detections, i: int, their: dict[str, Tensor], *, exact: bool) -> None:
    valid = ours.valid[i]
    boxes, scores, labels = ours.boxes[i][valid], ours.scores[i][valid], ours.labels[i][valid]
    assert len(boxes) == len(their["boxes"])
    if exact:
        assert torch.equal(labels, their["labels"])
        torch.testing.assert_close(boxes, their["boxes"], rtol=0, atol=1e-6)
        torch.testing.assert_close(scores, their["scores"], rtol=0, atol=1e-6)
        return
    # Nearly equal scores may swap places: each answer takes the nearest of its class that is still free.
    apart = (boxes[:, None] - their["boxes"]).abs().amax(dim=-1)
    apart = apart.masked_fill(labels[:, None] != their["labels"], torch.inf)
    unlike = (scores[:, None] - their["scores"]).abs()
    for row in range(len(boxes)):
        partner = int((apart[row] / 0.05 + unlike[row] / 1e-4).argmin())
        assert apart[row, partner] <= 0.05
        assert unlike[row, partner] <= 1e-4
        apart[:, partner] = torch.inf


@pytest.mark.parametrize("counts", [[5, 3], [4, 0], [0, 0]], ids=["objects", "one image without", "none"])
def test_losses(counts: list[int], pair: tuple[Any, Detector]) -> None:
    reference, detector = pair
    batch = _batch("two of different sizes", next(detector.parameters()).dtype)
    targets = random_targets(counts, CASES["two of different sizes"][0], CLASSES, dtype=batch.pixels.dtype)
    reference.transform = Preprocessed(batch)
    reference.training = True  # alone: its norms stay in evaluation
    given = [
        {"boxes": b[v], "labels": c[v]} for b, c, v in zip(targets.boxes, targets.labels, targets.valid, strict=True)
    ]
    theirs = reference(list(batch.pixels), given)
    reference.training = False
    ours = detector.losses(batch, targets)
    exact = batch.pixels.dtype == torch.float64
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if exact else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(ours["classification"], theirs["classification"], **tolerance)
    torch.testing.assert_close(ours["box"], theirs["bbox_regression"], **tolerance)
    if any(counts):
        assert ours["box"] > 0


@pytest.mark.parametrize("pair", [torch.float64], ids=["float64"], indirect=True)
def test_gradients(pair: tuple[Any, Detector]) -> None:
    reference, detector = pair
    batch = _batch("landscape", torch.float64)
    targets = random_targets([4], CASES["landscape"][0], CLASSES, dtype=torch.float64)
    reference.transform = Preprocessed(batch)
    reference.training = True
    theirs = reference(list(batch.pixels), [{"boxes": targets.boxes[0], "labels": targets.labels[0]}])
    reference.training = False
    sum(theirs.values()).backward()
    sum(detector.losses(batch, targets).values()).backward()  # type: ignore[union-attr]
    expected = from_torchvision({k: p.grad for k, p in reference.named_parameters()})
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=1e-9)
    reference.zero_grad()
    detector.zero_grad()


def test_names_there_and_back(reference: nn.Module) -> None:
    state = reference.state_dict()
    back = to_torchvision(from_torchvision(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_published_files_load(reference: nn.Module, tmp_path: Path) -> None:
    """torchvision's published file has older names and norms that are frozen, with eps 0 set after loading."""
    old = {}
    for key, value in reference.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        key = (
            key.replace("blocks.0.0.", "blocks.0.")
            .replace("blocks.1.0.", "blocks.1.")
            .replace("blocks.2.0.", "blocks.2.")
        )
        for i in reversed(range(4)):
            key = key.replace(f"_head.conv.{i}.0.", f"_head.conv.{2 * i}.")
        old[key] = value
    torch.save(old, tmp_path / "published.pth")

    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES)
    theirs.eval()
    frozen = _freeze(theirs)
    assert frozen == 53
    theirs.load_state_dict(old)
    # In float64, so that what the norms' scale takes over from eps is seen exactly.
    state = {key: value.double() for key, value in read_state(tmp_path / "published.pth").items()}
    ours = build(parse_network("resnet50/fpn/retinanet"), CLASSES).double().eval()
    pixels = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = list(theirs.double().backbone(pixels).values())
        load_strictly(ours, from_torchvision(state), "published.pth")
        other_eps = ours.neck(ours.backbone(pixels))  # type: ignore[misc]
        load_strictly(ours, from_torchvision(state, eps=0.0), "published.pth")
        found = ours.neck(ours.backbone(pixels))  # type: ignore[misc]
    for a, b, c in zip(found, expected, other_eps, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
        assert (a - c).abs().max() > 1e-6


def _freeze(module: nn.Module) -> int:
    """Replace batch norms by torchvision's frozen ones with eps 0; how many."""
    norms = [name for name, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for name in norms:
        module.set_submodule(name, FrozenBatchNorm2d(module.get_submodule(name).num_features, eps=0.0))  # type: ignore[arg-type]
    return len(norms)


def test_foreign_names_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"backbone\.fpn\.inner_blocks\.7"):
        from_torchvision({"backbone.fpn.inner_blocks.7.0.weight": torch.zeros(1)})
