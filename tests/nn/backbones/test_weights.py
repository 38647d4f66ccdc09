from __future__ import annotations

import os
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from torch import nn

from detsearch.arch.code import parse_module
from detsearch.arch.modules.backbones import CodedResNetSpec
from detsearch.arch.spec import Norm
from detsearch.errors import CheckpointError, ResourceError
from detsearch.nn.backbones.coded import CodedResNet, build_coded
from detsearch.nn.backbones.weights import load_pretrained, read_state

safetensors = pytest.importorskip("safetensors.torch")


def _net(text: str = "resnet18", norm: Norm = "bn") -> CodedResNet:
    spec = parse_module(text)
    assert isinstance(spec, CodedResNetSpec)
    return build_coded(spec, norm=norm)


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return torchvision.models.resnet18(weights=None).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_local_files_of_a_whole_classifier(suffix: str, published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else safetensors.save_file)(published, path)
    net = _net()
    load_pretrained(net, str(path))
    assert torch.equal(net.stem.conv1.weight, published["conv1.weight"])  # type: ignore[union-attr,arg-type]
    assert torch.equal(net.state_dict()["layer4.1.bn2.bias"], published["layer4.1.bn2.bias"])


def test_own_state(tmp_path: Path) -> None:
    a, b = _net("basicblock_8_1-2-2-2", "gn_ws"), _net("basicblock_8_1-2-2-2", "gn_ws")
    torch.save(a.state_dict(), tmp_path / "own.pt")
    load_pretrained(b, str(tmp_path / "own.pt"))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("layer1.0.conv1.weight"), "without layer1.0.conv1.weight"),
        (lambda s: s.update(extra=torch.ones(1)), "with extra"),
        (lambda s: s.update({"conv1.weight": torch.ones(64, 3, 3, 3)}), r"stem.conv1.weight of shape \(64, 3, 3, 3\)"),
    ],
)
def test_mismatch_is_named_and_changes_nothing(
    change: object, text: str, published: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    state = dict(published)
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "x.pth")
    net = _net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=text):
        load_pretrained(net, str(tmp_path / "x.pth"))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_other_norm_and_other_depth_are_refused(published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(published, tmp_path / "x.pth")
    for net in (_net("resnet18", "gn"), _net("resnet34")):
        with pytest.raises(CheckpointError, match=r"x\.pth.*and [0-9]+ more.*same architecture and norm"):
            load_pretrained(net, str(tmp_path / "x.pth"))


class _Attack:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("attacked",)


def test_hostile_and_damaged_files(
    published: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(published, "whole.pth")
    whole = Path("whole.pth").read_bytes()
    files = {
        "cut.pth": whole[: len(whole) // 2],
        "empty.pth": b"",
        "text.pth": b"this is no checkpoint",
        "attack.pth": pickle.dumps(_Attack()),
        "text.safetensors": b"this is no checkpoint either",
        "huge.safetensors": b"\xff" * 64,
    }
    for name, content in files.items():
        Path(name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name}: .*, got another or a truncated file$"):
            read_state(Path(name))
    torch.save(_plain := [1, 2], "list.pth")
    torch.save({"epoch": 3}, "numbers.pth")
    for name in ("list.pth", "numbers.pth"):
        with pytest.raises(CheckpointError, match="names to tensors"):
            read_state(Path(name))
    with pytest.raises(CheckpointError, match="no such file"):
        read_state(Path("absent.pth"))
    with pytest.raises(CheckpointError, match="a file of weights, got a folder"):
        read_state(Path())
    assert not Path("attacked").exists()


def test_imagenet_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(ResourceError, match=r"resnet18.*no network.*local file"):
        load_pretrained(_net(), "imagenet")


def test_imagenet_from_the_cache(monkeypatch: pytest.MonkeyPatch, published: dict[str, torch.Tensor]) -> None:
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: published)
    net = _net()
    load_pretrained(net, "imagenet")
    assert torch.equal(net.stem.conv1.weight, published["conv1.weight"])  # type: ignore[union-attr,arg-type]


def test_imagenet_from_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the one network that torchvision publishes none of; without what the backbone has not."""
    asked: list[str] = []
    create = timm.create_model

    def untrained(name: str, *, pretrained: bool) -> nn.Module:
        asked.append(name)
        assert pretrained
        return create(name.partition(".")[0])

    monkeypatch.setattr(timm, "create_model", untrained)
    with torch.device("meta"):
        net = _net("resnext101_32x4d(last=3)")
        state, own = net.imagenet_state(), net.state_dict()
    assert asked == ["resnext101_32x4d.gluon_in1k"]
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in own.items()}


@pytest.mark.parametrize(
    ("text", "norm"), [("basicblock_16_1-2-2-2", "bn"), ("resnet18(stem=deep)", "bn"), ("resnet18", "gn")]
)
def test_imagenet_of_what_is_not_published(text: str, norm: Norm) -> None:
    with pytest.raises(ResourceError, match="resnet18, resnet34"):
        load_pretrained(_net(text, norm), "imagenet")


def test_a_backbone_that_knows_no_weights() -> None:
    with pytest.raises(ResourceError, match="Conv2d"):
        load_pretrained(nn.Conv2d(3, 3, 3), "imagenet")
