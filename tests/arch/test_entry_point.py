"""Modules of other people's packages, through the entry point group detsearch.modules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import format_detector, parse_detector
from detsearch.arch.partial_order import leq
from detsearch.arch.spaces.structural import StructuralSpace
from detsearch.build import build
from detsearch.errors import SpecError, UserError
from detsearch.nn.structures import ImageBatch, Targets

TEXTS = (
    "toynet/centre@128x96",
    "toynet(width=24)/centre(depth=2)/gn_ws@128x96",
    "toynet_small/fpn(levels=3-4,width=16)/centre@128x96",
    "toynet/fpn(levels=3-5-6,width=16)/retinanet(depth=1)@128x96",
    "basicblock_8_1-2-2-2/fpn(levels=2-4,width=8)/centre(depth=0)@128x96",
)


@pytest.mark.usefixtures("toy_package")
def test_their_tokens_parse_and_format() -> None:
    for text in TEXTS:
        assert format_detector(parse_detector(text)) == text
    assert parse_detector("toynet(width=8)/centre@64x64") == parse_detector("toynet_small/centre@64x64")


@pytest.mark.usefixtures("toy_package")
def test_their_rules_hold() -> None:
    with pytest.raises(SpecError, match="did you mean toynet"):
        parse_detector("toynett/centre@64x64")
    with pytest.raises(SpecError, match="toynet: width: expected 1 to 256, got 0"):
        parse_detector("toynet(width=0)/centre@64x64")
    with pytest.raises(SpecError, match="levels of the neck: expected levels of the backbone"):
        parse_detector("toynet/fpn(levels=2-3)/centre@64x64")
    with pytest.raises(SpecError, match="at least 32 pixels a side"):
        parse_detector("toynet/centre@64x31")
    narrow, wide = (parse_detector(f"toynet{width}/centre@64x64") for width in ("(width=8)", ""))
    assert leq(narrow, wide)
    assert not leq(wide, narrow)


@pytest.mark.usefixtures("toy_package")
def test_their_modules_stand_in_a_space_beside_ours() -> None:
    space = StructuralSpace.from_choices(
        {
            "backbone": ["basicblock_8_1-2-2-2", {"toynet": {"width": [8, 16]}}],
            "neck": ["none", "fpn(levels=3-4,width=16)"],
            "head": ["centre", "retinanet(depth=1)"],
            "input": ["64x64"],
        }
    )
    assert space.size() == 3 * 2 * 2
    assert all(space.contains(other) for spec in space.all() for other in space.neighbours(spec))


@pytest.mark.usefixtures("toy_package")
@pytest.mark.parametrize("text", [TEXTS[1], TEXTS[2], TEXTS[3], TEXTS[4]])
def test_their_builders_make_detectors_that_learn_and_answer(text: str) -> None:
    torch.manual_seed(0)
    detector = build(parse_detector(text).network, num_classes=3)
    images = ImageBatch(torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8), torch.tensor([[96, 128], [80, 100]]))
    boxes = [torch.tensor([[10.0, 10.0, 60.0, 70.0]]), torch.zeros(0, 4)]
    targets = Targets.from_lists(boxes, [torch.tensor([2]), torch.zeros(0, dtype=torch.int64)])
    losses = detector.train().losses(images, targets)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    with torch.no_grad():
        assert len(detector.eval().detect(images)) == 2


def test_child_processes_see_them_and_need_no_torch_for_it(toy_package: Path) -> None:
    code = (
        "import sys; from detsearch.arch.code import parse_detector, format_detector;"
        "print(format_detector(parse_detector('toynet/centre@64x64')), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=toy_package, timeout=60)
    assert (done.stdout, done.returncode) == ("toynet/centre@64x64 False\n", 0), done.stderr


def test_without_the_package_its_tokens_are_unknown() -> None:
    assert catalogue().get("toynet") is None
    with pytest.raises(SpecError, match="expected a module, got 'toynet'"):
        parse_detector("toynet/centre@64x64")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a package whose entry point is ``broken_toys:MODULES``."""
    info = tmp_path / "broken_toys-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-toys\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[detsearch.modules]\ntoys = broken_toys:MODULES\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    catalogue.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    catalogue.cache_clear()
    sys.modules.pop("broken_toys", None)


TWICE = """
from dataclasses import dataclass
from detsearch.arch.catalogue import Descriptor
from detsearch.arch.spec import ModuleSpec
@dataclass(frozen=True)
class Mine(ModuleSpec):
    x: int = 1
MODULES = Descriptor(slot="neck", token="fpn", spec=Mine, builder="broken_toys.nets:build", summary="")
"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "ModuleNotFoundError: No module named 'broken_toys'"),
        ("import a_library_that_is_absent", "ModuleNotFoundError: No module named 'a_library_that_is_absent'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("def (", "SyntaxError"),
        ("OTHER = 1", "AttributeError"),
        ("MODULES = 3", "expected a Descriptor or a list of them, got int"),
        ("MODULES = 'fpn'", "expected a Descriptor or a list of them, got str"),
        ("MODULES = [3, 'x']", "expected a Descriptor or a list of them, got a list of int, str"),
        (TWICE, "module 'fpn' of broken_toys.nets:build: expected a name of its own, got 'fpn', which is taken twice"),
    ],
)
def test_a_broken_package_is_named_in_one_line(broken: Path, content: str | None, message: str) -> None:
    if content is not None:
        (broken / "broken_toys.py").write_text(content)
    with pytest.raises(UserError) as caught:
        catalogue()
    assert message in str(caught.value)
    assert "broken-toys" in str(caught.value) or "broken_toys" in str(caught.value)
    assert str(caught.value).isprintable()
    with pytest.raises(UserError):
        catalogue()  # the failure is not taken for an answer
