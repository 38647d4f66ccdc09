from __future__ import annotations

import os
from pathlib import Path

import pytest

from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import format_detector, parse_detector, parse_module
from detsearch.arch.presets import PRESETS, SM_NAS, preset, resolve, resolve_backbone
from detsearch.errors import SpecError
from detsearch.types import InputSize

NETWORK = "resnet18/fpn(levels=3-4-5)/retinanet(depth=2)"
SPEC = parse_detector(f"{NETWORK}@512x384")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_canonical(name: str) -> None:
    spec = preset(name)
    catalogue().check(spec.network)
    catalogue().check_input(spec)
    assert format_detector(spec) == PRESETS[name]
    assert resolve(name) == resolve(f" {name}\n") == spec


def test_presets_are_distinct() -> None:
    assert len({preset(name) for name in PRESETS}) == len(PRESETS)


def test_every_published_detector_has_a_preset_with_every_backbone() -> None:
    families = ("faster_rcnn", "retinanet", "cascade_rcnn", "ga_faster_rcnn", "fcos", "mask_rcnn", "ms_rcnn")
    families += ("fad_fcos", "fad_retinanet", "fad_mask_rcnn", "fad_ms_rcnn")
    backbones = ("r18", "r34", "r50", "r101", "x101_64x4d", "mobilenetv2")
    named = {f"{family}_{backbone}_fpn" for family in families for backbone in backbones}
    assert set(PRESETS) == named | set(SM_NAS) | {"retinanet_slim"}
    assert {preset(name).input for name in named} == {InputSize(1333, 800)}


def test_a_preset_at_another_size() -> None:
    assert resolve(" fcos_r50_fpn @ 800x600\n") == preset("fcos_r50_fpn").network.at(InputSize(800, 600))
    assert resolve("fcos_r50_fpn@800x600", InputSize(512, 512)).input == InputSize(512, 512)
    assert "at least 128 pixels a side" in refusal("fcos_r50_fpn@96x96")
    assert "WxH in pixels" in refusal("fcos_r50_fpn@800")


@pytest.mark.parametrize("text", [f"{NETWORK}@512x384", f" {NETWORK} @ 512x384\n"])
def test_resolve_reads_a_detector(text: str) -> None:
    assert resolve(text) == SPEC
    assert resolve(text, InputSize(256, 256)) == SPEC.network.at(InputSize(256, 256))


def test_resolve_reads_a_network_with_a_size() -> None:
    assert resolve(NETWORK, SPEC.input) == SPEC
    with pytest.raises(SpecError, match=r"expected an input size, .* add @WxH"):
        resolve(NETWORK)


@pytest.mark.parametrize("content", [f"{NETWORK}@512x384", f"  {NETWORK}@512x384  \r\nmore\n"])
def test_resolve_reads_a_file(tmp_path: Path, content: str) -> None:
    for name in ("a.txt", "a.spec", "a"):
        file = tmp_path / name
        file.write_text(content)
        assert resolve(str(file)) == SPEC
        assert resolve(str(file), InputSize(640, 640)).input == InputSize(640, 640)


def test_a_file_may_hold_a_preset_or_a_network(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("retinanet_r50_fpn")
    assert resolve(str(file)) == preset("retinanet_r50_fpn")
    file.write_text(NETWORK)
    assert resolve(str(file), SPEC.input) == SPEC
    with pytest.raises(SpecError, match=r"a\.txt: detector: expected an input size"):
        resolve(str(file))


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        resolve(text)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a detector on the first line, got nothing"),
        (b"\n\nresnet18/fpn/retinanet@512x512", "expected a detector on the first line, got nothing"),
        (b"\x80\x81\xff\x00", "expected a text file with a detector on its first line, got bytes that are no text"),
        (b"\x00" * 100_000, "expected one of"),
        (b"PK\x03\x04@", "expected a module"),
        (b"x" * 10**6, "expected one of"),
        (b"resnt18/fpn/retinanet@512x512", "code at character 1: expected a module, got 'resnt18'"),
        (b"a.txt", "expected one of"),
    ],
)
def test_files_that_hold_no_detector(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    assert message in refusal(str(file))
    assert str(file) in refusal(str(file)), "the message names the file"


def test_files_that_name_files_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("./a.txt")
    Path("b.txt").write_text("c.txt")
    Path("c.txt").write_text("b.txt")
    for name in ("a.txt", "b.txt", str(tmp_path / "a.txt")):
        refusal(name)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "no such file" in refusal(str(tmp_path / "absent.txt"))
    assert "got a folder" in refusal(str(tmp_path))
    folder = tmp_path / "folder.txt"
    folder.mkdir()
    assert "got a folder" in refusal(str(folder))
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    assert "got something else" in refusal(str(pipe)), "and does not wait for a writer"


@pytest.mark.parametrize(
    "text", ["a\0b.txt", "a\0b", "x" * 300, "x" * 300 + ".txt", "\ud800", "\ud800.spec", "", " ", "\x1b[2J"]
)
def test_names_that_no_file_system_takes(text: str) -> None:
    refusal(text)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(NETWORK)
    file.chmod(0)
    assert "expected a readable text file" in refusal(str(file))


def test_a_mistake_gets_a_suggestion() -> None:
    assert "did you mean retinanet_r50_fpn?" in refusal("retinanet_r50_fnp")
    assert "did you mean resnet18?" in refusal("resnt18/fpn/retinanet")


def test_the_size_that_is_asked_for_is_checked_too() -> None:
    with pytest.raises(SpecError, match="at least 128 pixels a side"):
        resolve("retinanet_r18_fpn", InputSize(96, 96))


@pytest.mark.parametrize(
    ("text", "code", "norm", "size"),
    [
        ("resnet50", "resnet50", "bn", "224x224"),
        ("basicblock_8_1-21-21-12(stem=7x7)", "basicblock_8_1-21-21-12(stem=7x7)", "bn", "224x224"),
        ("E0", "basicblock_64_1-21-21-12", "bn", "512x512"),
        ("E0@640x480", "basicblock_64_1-21-21-12", "bn", "640x480"),
        (f"{NETWORK}/gn_ws@512x384", "resnet18", "gn_ws", "512x384"),
    ],
)
def test_a_backbone_alone_or_in_a_detector(text: str, code: str, norm: str, size: str) -> None:
    module = parse_module(code, "backbone")
    assert resolve_backbone(f" {text}\n") == (module, norm, InputSize.parse(size))
    assert resolve_backbone(text, InputSize(128, 96)) == (module, norm, InputSize(128, 96))


def test_what_is_no_backbone_is_told_so() -> None:
    for text, message in (
        ("basicblock_64_1-13-1-1", "stage 3 of a block code"),
        ("basicblok_64_1-1-1-1", "expected basicblock or"),
        ("faster_rcnn_r50_fnp", "did you mean faster_rcnn_r50_fpn?"),
        ("resnet18/fpn/retinanet", "add @WxH or --input WxH"),
    ):
        with pytest.raises(SpecError) as caught:
            resolve_backbone(text)
        assert message in str(caught.value)


@pytest.mark.parametrize("text", ["resnet18", "basicblock_8_1-21-21-21"])
def test_a_backbone_alone_is_answered_is_answered_with_a_whole_detector(text: str) -> None:
    with pytest.raises(SpecError, match=f"as in {text}/fpn/retinanet@512x512"):
        resolve(text)
    assert resolve(f"{text}/fpn/retinanet@512x512").network.backbone is not None
