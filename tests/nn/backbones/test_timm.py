from __future__ import annotations

import itertools

import pytest
import timm
import torch
from torch import nn

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.errors import ResourceError, SpecError
from detsearch.nn.backbones.timm import TimmBackbone
from detsearch.nn.backbones.weights import load_strictly
from detsearch.nn.norms import GroupNorm, WSConv2d
from detsearch.nn.structures import ImageBatch


@pytest.mark.parametrize("norm", ["bn", "gn", "gn_ws"])
def test_mobilenet(norm: str) -> None:
    net = TimmBackbone("mobilenetv2_100", norm)  # type: ignore[arg-type]
    assert net.out.levels == (2, 3, 4, 5)
    assert net.out.channels == (24, 32, 96, 320)
    maps = net(torch.randn(1, 3, 65, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 17, 24), (32, 9, 12), (96, 5, 6), (320, 3, 3)]
    sum(m.square().mean() for m in maps).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    norms = [m for m in net.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))]
    assert norms
    assert all(isinstance(m, nn.BatchNorm2d) == (norm == "bn") for m in norms)
    for m in norms:
        if isinstance(m, nn.GroupNorm):
            assert m.num_groups == GroupNorm(m.num_channels).num_groups
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert all(isinstance(m, WSConv2d) == (norm == "gn_ws") for m in convs)


@pytest.mark.parametrize("model", ["mobilenetv2_100", "convnext_atto", "resnet18"])
@pytest.mark.parametrize("last", [2, 4])
def test_a_backbone_that_ends_earlier(model: str, last: int) -> None:
    """The maps of the whole one as far as they go, and nothing built behind them, whatever class timm makes of it."""
    whole, net = TimmBackbone(model, "bn").eval(), TimmBackbone(model, "bn", last=last).eval()
    full = timm.create_model(model, pretrained=False)
    for backbone in (whole, net):
        load_strictly(backbone, backbone.adopt(full.state_dict()), model)
    assert net.out.levels == tuple(range(2, last + 1))
    x = torch.randn(2, 3, 64, 64)
    maps = net(x)
    assert len(maps) == last - 1
    for found, expected, channels in zip(maps, whole(x), net.out.channels, strict=False):
        assert torch.equal(found, expected)
        assert found.shape[1] == channels
    sum(m.square().mean() for m in maps).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ("model", "first", "stem"),
    [
        ("mobilenetv2_100", "blocks.1.0", "blocks.0.0"),
        ("convnext_atto", "stages_0", "stem_1"),
        ("resnet18", "layer1.0", "bn1"),
    ],
)
def test_stages(model: str, first: str, stem: str) -> None:
    """Every parameter stands in one stage; the stem ends where P2's stage begins."""
    net = TimmBackbone(model, "bn")
    stages = net.stages()
    assert len(stages) == 5
    parameters = [[id(p) for module in stage for p in module.parameters()] for stage in stages]
    assert sorted(itertools.chain(*parameters)) == sorted(map(id, net.parameters()))
    for number, name in ((0, stem), (1, first)):
        assert {id(p) for p in net.body.get_submodule(name).parameters()} <= set(parameters[number])


@pytest.mark.parametrize(("model", "last"), [("hrnet_w18_small", 5), ("xception41", 4)])
def test_stages_that_cannot_be_told_apart(model: str, last: int) -> None:
    """hrnet's run beside each other; a map of xception's leaves from inside a block."""
    with torch.device("meta"), pytest.raises(SpecError, match="stages of a timm model: expected"):
        TimmBackbone(model, "bn", last=last).stages()


def test_activations_survive_the_conversion() -> None:
    net = TimmBackbone("mobilenetv2_100", "gn")
    assert net.body.bn1.act.__class__.__name__ == "ReLU6"  # type: ignore[union-attr]
    assert net.body.blocks[1][0].bn3.act.__class__.__name__ == "Identity"  # type: ignore[index,union-attr]


def test_another_family_and_its_whole_classifier() -> None:
    """Weights of a timm classifier under timm's names load, though a feature model names some modules otherwise."""
    torch.manual_seed(0)
    full = timm.create_model("convnext_atto", pretrained=False).double().eval()
    net = TimmBackbone("convnext_atto", "bn").double().eval()
    load_strictly(net, net.adopt(full.state_dict()), "convnext")
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = full.stages[:1](full.stem(x))
        torch.testing.assert_close(net(x)[0], expected)
    own = net.state_dict()
    assert net.adopt(own) == own


def test_unknown_names_in_a_file_are_not_dropped() -> None:
    net = TimmBackbone("mobilenetv2_100", "bn")
    assert set(net.adopt({"conv_head.weight": torch.ones(1), "mine": torch.ones(1)})) == {"mine"}


@pytest.mark.parametrize(
    ("model", "norm", "text"),
    [
        ("mobilenetv2_10", "bn", "did you mean .*mobilenetv2_100"),
        ("vit_tiny_patch16_224", "bn", "strides 4, 8, 16, 32"),
        ("swin_tiny_patch4_window7_224", "bn", "one fixed input size"),
        ("tf_efficientnet_b0", "gn_ws", "Conv2dSame"),
    ],
)
def test_models_that_do_not_fit(model: str, norm: str, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        TimmBackbone(model, norm)  # type: ignore[arg-type]


def test_nothing_is_downloaded_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    net = TimmBackbone("mobilenetv2_100", "bn")

    def offline(*_: object, **asked: object) -> nn.Module:
        assert asked["pretrained"]
        raise FileNotFoundError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ResourceError, match=r"mobilenetv2_100.*no network.*local file"):
        net.imagenet_state()
    with pytest.raises(ResourceError, match="norm bn"):
        TimmBackbone.imagenet_state(type("Converted", (), {"norm": "gn"})())  # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "mean"), [("test_efficientnet", 0.485), ("test_resnet", 0.5)])
def test_pixels_are_scaled_as_the_published_weights_want_them(model: str, mean: float) -> None:
    """A detector's uint8 pixels reach the backbone as timm's own transform for it would make them."""
    detector = build(parse_network(f"timm(model={model})/fpn(width=16)/retinanet(depth=1)"), 2)
    own = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(model).to_dict())
    assert own["mean"][0] == mean
    pixels = torch.randint(0, 256, (1, 3, 4, 5), dtype=torch.uint8)
    expected = (pixels / 255 - torch.tensor(own["mean"])[:, None, None]) / torch.tensor(own["std"])[:, None, None]
    found = detector.normalise(ImageBatch(pixels, torch.tensor([[4, 5]]))).pixels
    torch.testing.assert_close(found, expected)
