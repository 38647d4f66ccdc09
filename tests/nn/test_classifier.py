from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from detsearch.arch.code import parse_module, parse_network
from detsearch.arch.modules.backbones import CLASSICAL
from detsearch.arch.spec import NORMS, Norm
from detsearch.build import build, build_classifier
from detsearch.nn.backbones.coded import CodedResNet
from detsearch.nn.classifier import Classifier
from detsearch.nn.ops.pixels import MEAN, STD
from detsearch.nn.structures import ImageBatch
from tests.nn.scenes import random_images


def of(code: str, classes: int = 5, norm: Norm = "bn", smoothing: float = 0.0) -> Classifier:
    return build_classifier(parse_module(code, "backbone"), classes, norm, smoothing=smoothing)


def batch(count: int, side: int = 32) -> ImageBatch:
    return random_images([(side, side)] * count, (side, side))


@pytest.mark.parametrize(
    "code", ["basicblock_8_1-2-2-2", "bottleneck_8_1-2-2-2", "Xbottleneck_8_1-2-2-2", "mbblock_8_1-2-2-2"]
)
@pytest.mark.parametrize("norm", NORMS)
def test_logits_and_a_gradient_for_every_parameter(code: str, norm: Norm) -> None:
    net = of(code, norm=norm)
    images = batch(4)
    assert net(images).shape == (4, 5)
    losses = net.losses(images, torch.tensor([0, 4, 2, 2]))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with torch.inference_mode():
        assert net.eval()(batch(1, 33)).isfinite().all()


def test_it_is_torchvisions_resnet() -> None:
    reference = torchvision.models.resnet18(weights=None).double().eval()
    ours = build_classifier(CLASSICAL["resnet18"], 1000).double().eval()
    assert isinstance(ours.backbone, CodedResNet)
    ours.backbone.load_state_dict(ours.backbone.adopt(reference.state_dict()))
    ours.head.load_state_dict({f"fc.{k}": v for k, v in reference.fc.state_dict().items()})
    images = batch(2, 64)
    pixels = (images.pixels / 255.0 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), reference(pixels.double()), rtol=1e-5, atol=1e-5)


def test_it_learns() -> None:
    """Colours are told apart after some steps; with smoothed labels the loss stays above their entropy."""
    torch.manual_seed(0)
    net = of("basicblock_8_1-2-2-2", classes=3)
    labels = torch.arange(12) % 3
    pixels = torch.randint(0, 100, (12, 3, 64, 64), dtype=torch.uint8)
    pixels[torch.arange(12), labels] += 150
    images = ImageBatch(pixels, torch.full((12, 2), 64))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

    def loss() -> Tensor:
        return net.losses(images, labels)["cross_entropy"]

    for _ in range(30):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    with torch.no_grad():
        assert float(loss()) < 0.1
        assert (net(images).argmax(dim=1) == labels).all()
        smoothed = of("basicblock_8_1-2-2-2", classes=3, smoothing=0.3).train()
        smoothed.load_state_dict(net.state_dict())
        assert float(smoothed.losses(images, labels)["cross_entropy"]) > float(loss()) + 0.3


def test_its_backbone_fits_a_detector() -> None:
    code = "basicblock_8_1-2-2-2"
    net, detector = of(code), build(parse_network(f"{code}/fpn(levels=3-4-5,width=8)/retinanet(depth=1)"), 2)
    detector.get_submodule("backbone").load_state_dict(net.get_submodule("backbone").state_dict())
    seen: list[Tensor] = []
    for module in (net, detector):
        module.get_submodule("backbone").register_forward_hook(
            lambda _, inputs, maps: seen.extend((inputs[0], maps[-1]))
        )
    images = batch(1)
    with torch.inference_mode():
        net.eval()(images)
        detector.eval()(images)
    assert torch.equal(seen[0], seen[2]), "the same pixels"
    assert torch.equal(seen[1], seen[3])
