from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detsearch.arch.catalogue import ABSENT, Catalogue, Descriptor
from detsearch.arch.code import (
    format_detector,
    format_module,
    format_network,
    format_subject,
    module_fields,
    parse_detector,
    parse_module,
    parse_network,
)
from detsearch.arch.modules.backbones import CodedResNetSpec, TimmSpec
from detsearch.arch.modules.heads import RetinaNetHeadSpec
from detsearch.arch.modules.necks import FPNSpec
from detsearch.arch.spec import SLOTS, ClassifierSpec, DetectorSpec, ModuleSpec
from detsearch.errors import DetsearchError, SpecError
from tests.arch.toys import (
    CELLS,
    OURS,
    TOY_CATALOGUE,
    CellBlock,
    CellHead,
    Cells,
    Mask,
    Scalars,
    detectors,
    heads,
    scalars,
)

SLIM = "resnet18/fpn(levels=3-4-5,width=128)/retinanet(depth=2)/gn_ws@512x512"
TOY = f"cellhead(cls={CELLS},reg=std1(0)"


def refusal(text: str, known: Catalogue = OURS) -> str:
    """The message with which a detector's text is refused."""
    with pytest.raises(SpecError) as caught:
        parse_detector(text, known)
    return str(caught.value)


def verbose(module: ModuleSpec, draw: Any) -> str:
    """A module written at length: token, every field, in random order, with random space."""
    names = draw(st.permutations([f.name for f in fields(module)]))
    space = st.sampled_from(["", " ", "  "])

    def text(value: Any) -> str:
        if isinstance(value, ModuleSpec):
            return verbose(value, draw)
        if isinstance(value, tuple):
            return "-".join(map(str, value))
        plain = {None: ABSENT, True: "true", False: "false"}
        return plain[value] if value is None or isinstance(value, bool) else str(value)

    written = [f"{draw(space)}{name}{draw(space)}={draw(space)}{text(getattr(module, name))}" for name in names]
    return f"{TOY_CATALOGUE.of(module).token}{draw(space)}({','.join(written)}{draw(space)})"


@given(detectors())
def test_text_of_our_modules_reads_back_as_the_same_detector(spec: DetectorSpec) -> None:
    text = format_detector(spec, OURS)
    assert parse_detector(text, OURS) == spec
    assert parse_network(format_network(spec.network, OURS), OURS) == spec.network


@given(detectors(toys=True))
def test_text_of_every_kind_of_field_reads_back_as_the_same_detector(spec: DetectorSpec) -> None:
    text = format_detector(spec, TOY_CATALOGUE)
    assert parse_detector(text, TOY_CATALOGUE) == spec


@given(detectors(toys=True), st.data())
def test_however_a_detector_is_written_its_text_is_the_same(spec: DetectorSpec, data: st.DataObject) -> None:
    parts = [verbose(part, data.draw) for slot in SLOTS if (part := spec.network.part(slot)) is not None]
    text = " / ".join([*parts, spec.network.norm]) + f" @ {spec.input} "
    read = parse_detector(text, TOY_CATALOGUE)
    assert read == spec
    assert format_detector(read, TOY_CATALOGUE) == format_detector(spec, TOY_CATALOGUE)


@given(scalars | heads)
def test_a_module_alone_reads_back(module: ModuleSpec) -> None:
    assert parse_module(format_module(module, TOY_CATALOGUE), known=TOY_CATALOGUE) == module


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("resnet18/fpn/retinanet/bn@512x512", "resnet18/fpn/retinanet@512x512"),
        ("basicblock_64_11-21-21-21(stem=7x7)/fpn/retinanet@512x512", "resnet18/fpn/retinanet@512x512"),
        ("resnet18(stem=deep)/fpn/retinanet@512x512", "basicblock_64_11-21-21-21/fpn/retinanet@512x512"),
        (
            "resnet18(code=bottleneck_64_111-2111-211111-211)/fpn(width=256)/retinanet(anchor_scale=4)@0512x512",
            "resnet50/fpn/retinanet@512x512",
        ),
        ("coded(code=basicblock_016_1-1-1-1)/fpn/retinanet@128x128", "basicblock_16_1-1-1-1/fpn/retinanet@128x128"),
        ("timm(model=mobilenetv2_100)/fpn/retinanet@512x512", "mobilenetv2/fpn/retinanet@512x512"),
        ("resnet50(stride_in=1x1)/fpn/retinanet@512x512", "resnet50(stride_in=1x1)/fpn/retinanet@512x512"),
        (SLIM, SLIM),
    ],
)
def test_canonical_text(written: str, canonical: str) -> None:
    assert format_detector(parse_detector(written, OURS), OURS) == canonical


def test_defaults_names_and_equal_widths_mean_what_they_say() -> None:
    spec = parse_detector(SLIM, OURS)
    assert isinstance(spec.network.backbone, CodedResNetSpec)
    assert str(spec.network.backbone.code) == "basicblock_64_11-21-21-21"
    assert spec.network.neck == FPNSpec((3, 4, 5), 128)
    assert spec.network.head == RetinaNetHeadSpec(depth=2)
    assert (spec.network.norm, spec.network.proposals, spec.input.width) == ("gn_ws", None, 512)


def test_two_groups_of_cells_in_one_head() -> None:
    head = CellHead(Cells.parse(CELLS), Cells.parse("std1(0)"), block=CellBlock(Cells.parse(CELLS), residual=False))
    text = format_module(head, TOY_CATALOGUE)
    assert text == f"cellhead(cls={CELLS},reg=std1(0),block={CELLS}(residual=false))"
    assert parse_module(text, "head", TOY_CATALOGUE) == head


def test_what_was_trained_has_a_text_without_its_input() -> None:
    """A classifier's is read as no detector."""
    spec = parse_detector("resnet18/fpn/retinanet/gn@512x512")
    assert format_subject(spec) == format_network(spec.network)
    classifier = ClassifierSpec(backbone=spec.network.backbone, input=spec.input)
    assert format_subject(classifier) == "resnet18/classifier"
    assert format_subject(replace(classifier, norm="gn_ws")) == "resnet18/classifier/gn_ws"
    with pytest.raises(SpecError, match="expected a module, got 'classifier'"):
        parse_network("resnet18/classifier")


def test_nested_modules_and_absent_ones() -> None:
    head = parse_module(f"{TOY},mask=stencil(deeper=stencil(width=3)),block=nonesuch)", "head", TOY_CATALOGUE)
    assert isinstance(head, CellHead)
    assert (head.mask, head.block) == (Mask(deeper=Mask(3)), Mask(64))
    assert parse_module(f"{TOY},mask=none)", "head", TOY_CATALOGUE) == parse_module(f"{TOY})", "head", TOY_CATALOGUE)


def test_fields_are_listed_with_defaults_and_what_they_accept() -> None:
    found = {field.name: field for field in module_fields(FPNSpec)}
    assert found["levels"] == ("levels", "integers joined by '-'", "3-4-5-6-7")
    assert found["extra_from"] == ("extra_from", "p5 or c5 or pool", "p5")
    assert module_fields(TimmSpec) == [("model", "a word", None), ("last", "an integer", "5")]
    for descriptor in TOY_CATALOGUE:
        assert [field.name for field in module_fields(descriptor.spec, TOY_CATALOGUE)] == [
            field.name for field in fields(descriptor.spec)
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnt18/fpn/retinanet@512x512", "character 1: expected a module, got 'resnt18'; did you mean resnet18?"),
        ("resnet18/fpm/retinanet@512x512", "character 10: expected a module, got 'fpm'; did you mean fpn?"),
        (
            "resnet18/fpn(widht=9)/retinanet@512x512",
            "character 14: expected a field of fpn (levels, width, extra_from, norm), got 'widht'; did you mean width?",
        ),
        ("resnet18/fpn(width=a)/retinanet@512x512", "character 20: expected an integer for fpn field 'width', got 'a'"),
        ("resnet18/fpn(width=9999999999999999999999)/retinanet@512x512", "expected an integer"),
        ("resnet18/fpn(width=٣٢)/retinanet@512x512", "expected an integer"),
        ("resnet18/fpn(levels=3-x)/retinanet@512x512", "integers joined by '-'"),
        ("resnet18/fpn(levels=5-4)/retinanet@512x512", "character 10, fpn: levels: expected ascending levels"),
        ("resnet18/fpn(extra_from=c4)/retinanet@512x512", "expected p5 or c5"),
        ("resnet18/fpn(width=64,width=64)/retinanet@512x512", "expected every field of fpn once, got 'width' again"),
        ("resnet18/fpn/retinanet(anchor_scale=1e999)@512x512", "expected a number"),
        ("resnet18/fpn/retinanet(anchor_scale=nan)@512x512", "expected a number"),
        ("resnet18/fpn/retinanet(depth=17)@512x512", "retinanet: depth: expected 1 to 16, got 17"),
        ("resnet18/fpn/retinanet(depth=2@512x512", "expected ')', got the end"),
        ("resnet18/fpn/retinanet(depth=2))@512x512", "character 32: expected '/', got ')'"),
        ("resnet18/fpn()/retinanet@512x512", "expected a field of fpn"),
        ("resnet18//retinanet@512x512", "character 10: expected a module"),
        ("resnet18/fpn/retinanet/@512x512", "expected a module, got the end"),
        ("resnet18/fpn/retinanet/bn/bn@512x512", "expected the end after the norm"),
        ("bn/resnet18/fpn/retinanet@512x512", "expected the end after the norm"),
        ("resnet18/retinanet/fpn@512x512", "character 20: expected parts in the order"),
        ("resnet18/resnet18/fpn/retinanet@512x512", "character 10: expected parts in the order"),
        ("fpn/retinanet@512x512", "expected a backbone, got none"),
        ("resnet18/fpn@512x512", "expected a head, got none"),
        ("resnet18/2fc@512x512", "proposals beside 2fc: expected any proposals, got none"),
        ("resnet18/fpn/retinanet", "expected network@WxH"),
        ("resnet18/fpn/retinanet@512", "expected WxH in pixels"),
        ("resnet18/fpn/retinanet@0x512", "input width: expected 1 to 16384 pixels, got 0"),
        ("resnet18/fpn/retinanet@127x512", "at least 128 pixels a side, the largest stride, got 127x512"),
        ("timm(model=../etc)/fpn/retinanet@512x512", "expected a word for timm field 'model', got '../etc'"),
        ("timm/fpn/retinanet@512x512", "expected field 'model' of timm, got timm without it"),
        ("basicblock_64_1-1-1/fpn/retinanet@512x512", "character 1, coded: block code: expected four stages"),
        ("basicblok_64_1-1-1-1/fpn/retinanet@512x512", "expected basicblock or bottleneck"),
        ("basicblock_64_1-1--1/fpn/retinanet@512x512", "stage 4 of a block code: expected one or more of the digits"),
        ("resnet18(stride_in=1x1)/fpn/retinanet@512x512", "expected 3x3 for a basicblock"),
    ],
)
def test_refusals_say_where_and_what(text: str, message: str) -> None:
    assert message in refusal(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stencil/fpn/retinanet@512x512", "expected a part of a detector, got stencil, which stands inside another"),
        (f"scalars(depth=1)/fpn/{TOY},mask=resnet18)@512x512", "expected a Mask for cellhead field 'mask', got coded"),
        (f"scalars(depth=1)/fpn/{TOY},block=fpn)@512x512", "expected a CellBlock or Mask for"),
        ("scalars(depth=1)/fpn/cellhead(cls=sep3)@512x512", "expected a Cells for cellhead field 'cls', got 'sep3'"),
        ("scalars(depth=1)/fpn/cellhead(cls=sep3(0)@512x512", "expected ')', got the end"),
        ("scalars/fpn/retinanet@512x512", "expected field 'depth' of scalars"),
        ("scalars(depth=1,flag=yes)/fpn/retinanet@512x512", "expected true or false for"),
        ("scalars(depth=1,groups=3)/fpn/retinanet@512x512", "expected 1 or 2 for"),
        ("scalars(depth=1,limit=x)/fpn/retinanet@512x512", "expected an integer or none for"),
    ],
)
def test_refusals_of_toys(text: str, message: str) -> None:
    assert message in refusal(text, TOY_CATALOGUE)


def test_a_module_for_another_slot_is_refused() -> None:
    with pytest.raises(SpecError, match="neck: expected a neck module, got coded, which is a backbone module"):
        parse_module("resnet18", "neck", OURS)
    with pytest.raises(SpecError, match="expected the end of the module"):
        parse_module("fpn/retinanet", known=OURS)


@pytest.mark.parametrize(
    "module",
    [
        Scalars(1, rate=float("nan")),
        Scalars(1, rate=float("inf")),
        Scalars(10**30),
        Scalars(1, model="two words"),
        Scalars(1, model=""),
        Scalars(1, model="a,b"),
        Scalars(1, label="none"),
        Scalars(1, sizes=()),
        Scalars(1, sizes=(-1,)),
        Scalars(True),
        Scalars(1, groups=3),  # type: ignore[arg-type]
        CellBlock(Cells(((("a)", 1),),))),
    ],
)
def test_a_value_without_text_is_refused_when_written(module: ModuleSpec) -> None:
    with pytest.raises(SpecError, match="a value that can be written"):
        format_module(module, TOY_CATALOGUE)


@dataclass(frozen=True)
class Untypable(ModuleSpec):
    table: dict[str, int]


@dataclass(frozen=True)
class Either(ModuleSpec):
    value: int | str = 1


@dataclass(frozen=True)
class Unresolvable(ModuleSpec):
    value: Missing = 1  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize("kind", [Untypable, Either, Unresolvable])
def test_a_field_without_text_form_is_its_authors_mistake(kind: type[ModuleSpec]) -> None:
    known = Catalogue([Descriptor(slot="inner", token="bad", spec=kind, builder="nowhere:build", summary="")])
    with pytest.raises(DetsearchError, match=kind.__name__):
        parse_module("bad(value=1)", known=known)
