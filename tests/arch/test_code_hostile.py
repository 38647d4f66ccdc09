"""Whatever the text, the answer is a detector or a SpecError of one short, printable line, and it comes at once."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detsearch.arch.blockcode import BlockCode
from detsearch.arch.catalogue import Catalogue
from detsearch.arch.code import MAX_NESTING, format_detector, parse_detector, parse_module, parse_network
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import SpecError
from detsearch.types import InputSize
from tests.arch.toys import CELLS, TOY_CATALOGUE, detectors

SECONDS = 1.0  # ample: the longest text takes some 20 ms


def attempt(text: str, known: Catalogue = TOY_CATALOGUE) -> DetectorSpec | None:
    """Read hostile text; whatever is read must be writable, and whatever is not must be refused properly."""
    begin = time.process_time()
    try:
        spec = parse_detector(text, known)
    except SpecError as error:
        message = str(error)
        assert message.isprintable(), "one line, nothing that a terminal would obey"
        assert len(message) < 1000
        return None
    finally:
        assert time.process_time() - begin < SECONDS
    assert parse_detector(format_detector(spec, known), known) == spec
    return spec


@given(st.text(max_size=300))
@example("\x00")
@example("\ud800@512x512")
@example("resnet18\n/fpn\t/retinanet@512x512")
@example("\x1b[31m/fpn/retinanet@512x512")
@example("resnet18/fpn/retinanet@\u0665\u0661\u0662x512")
def test_any_text(text: str) -> None:
    attempt(text)


@given(st.text("()=,/@|+-_. \x00\n12345678901234567890xabcfilnprstuvwe", max_size=200))
def test_text_of_the_marks_of_the_grammar(text: str) -> None:
    attempt(text)
    attempt(f"resnet18/fpn({text})/retinanet@512x512")
    attempt(f"scalars(depth=1)/fpn/cellhead(cls={text},reg={CELLS},block={text})@512x512")


@given(detectors(toys=True), st.data())
def test_right_text_with_one_mistake(spec: DetectorSpec, data: st.DataObject) -> None:
    text = format_detector(spec, TOY_CATALOGUE)
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 3))
    attempt(text[:at] + data.draw(st.text(max_size=3)) + text[at + cut :])


@pytest.mark.parametrize(
    "text",
    [
        "(" * 4000,
        ")" * 4000,
        "resnet18(" * 400,
        "x" * 4000 + "@512x512",
        "x" * 10**7,
        "@" * 4000,
        "resnet18/fpn(width=" + "9" * 4000 + ")/retinanet@512x512",
        "resnet18/fpn(levels=" + "2-" * 2000 + "3)/retinanet@512x512",
        "resnet18/fpn(levels=" + "1" * 4000 + ")/retinanet@512x512",
        "resnet18/fpn/retinanet(anchor_scale=1." + "0" * 4000 + ")@512x512",
        "basicblock_64_" + "1" * 3000 + "-1-1-1/fpn/retinanet@512x512",
        "basicblock_64_" + "2" * 300 + "-1-1-1/fpn/retinanet@512x512",
        "basicblock_" + "9" * 3000 + "_1-1-1-1/fpn/retinanet@512x512",
        "scalars(depth=1)/fpn/cellhead(cls=" + "a(1)+" * 700 + "@512x512",
        "scalars(depth=1)/fpn/cellhead(cls=" + "(" * 3000 + "@512x512",
        "a(1)+" * 800,
        "a_1_" * 1000,
        "timm(model=" + "a" * 4000 + ")/fpn/retinanet@512x512",
        "resnet18/fpn/retinanet@" + "9" * 4000,
        "resnet18" + " " * 4000,
    ],
)
def test_long_and_unbalanced_text(text: str) -> None:
    assert attempt(text) is None


def test_nesting_has_a_limit_that_real_networks_do_not_reach() -> None:
    def nested(depth: int) -> str:
        return "stencil(deeper=" * depth + "stencil" + ")" * depth

    parse_module(nested(MAX_NESTING), known=TOY_CATALOGUE)
    with pytest.raises(SpecError, match=f"at most {MAX_NESTING} modules inside each other"):
        parse_module(nested(MAX_NESTING + 1), known=TOY_CATALOGUE)
    with pytest.raises(SpecError, match="at most"):
        parse_module(nested(300), known=TOY_CATALOGUE)


@given(st.text(max_size=100))
def test_the_other_readers_refuse_in_the_same_way(text: str) -> None:
    for read in (parse_network, parse_module, BlockCode.parse, InputSize.parse):
        try:
            read(text)
        except SpecError as error:
            assert str(error).isprintable()  # noqa: PT017  (most texts fail, a few may not)


def test_a_huge_block_code_is_refused_at_once() -> None:
    begin = time.process_time()
    with pytest.raises(SpecError, match="at most 512 blocks") as caught:
        BlockCode.parse(f"basicblock_64_{'1' * 10**6}-1-1-1")
    assert len(str(caught.value)) < 1000
    assert time.process_time() - begin < SECONDS
