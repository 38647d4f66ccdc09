"""Groups of ResNeXt blocks: how they are said, and that more or wider ones are greater and cost more."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detsearch.arch.blockcode import BlockCode
from detsearch.arch.code import format_module, parse_module
from detsearch.arch.modules.backbones import CLASSICAL, CodedResNetSpec
from detsearch.arch.partial_order import module_leq
from detsearch.errors import SpecError
from detsearch.types import InputSize
from tests.arch.toys import OURS


def leq(a: CodedResNetSpec, b: CodedResNetSpec) -> bool:
    return module_leq(a, b, OURS)


def sample(number: int) -> list[CodedResNetSpec]:
    """Few bases and cardinalities, so that comparable pairs are common."""
    rng = np.random.default_rng(0)
    found = {
        CodedResNetSpec(
            BlockCode("Xbottleneck", int(rng.choice([4, 8, 16])), tuple(rng.choice(["1", "2", "11", "21"], 4))),
            groups=int(rng.choice([0, 2, 4, 8])),
            group_width=int(rng.choice([0, 2, 4, 6])),
        )
        for _ in range(number)
    }
    return sorted(found, key=format_module)


def test_partial_order_in_which_cost_grows() -> None:
    specs = sample(300)
    order = np.array([[leq(a, b) for b in specs] for a in specs])
    assert order.diagonal().all()
    assert not (order & order.T & ~np.eye(len(specs), dtype=bool)).any()
    steps = order.astype(np.float32)
    assert not ((steps @ steps > 0) & ~order).any()
    comparable = [(specs[a], specs[b]) for a, b in np.argwhere(order) if a != b]
    assert len(comparable) > 500
    assert any(a.groups != b.groups for a, b in comparable)
    assert any(a.group_width != b.group_width for a, b in comparable)
    for a, b in comparable:
        fields = [{"groups": s.groups, "group_width": s.group_width} for s in (a, b)]
        params = [s.code.params(s.stem, **f) for s, f in zip((a, b), fields, strict=True)]
        macs = [s.code.macs(InputSize(33, 64), s.stem, **f) for s, f in zip((a, b), fields, strict=True)]
        assert params[0] < params[1], f"{a} <= {b}"
        assert macs[0] < macs[1], f"{a} <= {b}"


def test_examples_of_the_order() -> None:
    narrow, wide, many = (CLASSICAL[f"resnext101_{c}"] for c in ("32x4d", "32x8d", "64x4d"))
    assert leq(CLASSICAL["resnext50_32x4d"], narrow)
    assert leq(narrow, wide)
    assert not leq(wide, narrow)
    assert not leq(narrow, many), "a given number against base/2: not the same rule at another base"
    assert not leq(many, narrow)
    for field in ("last=4", "stride_in=1x1"):
        assert not leq(narrow, parse_module(f"resnext101_32x4d({field})"))  # type: ignore[arg-type]


@given(st.integers(2, 512).map(lambda half: 2 * half), st.integers(0, 1024), st.integers(0, 1024))
def test_text_reads_back(base: int, groups: int, width: int) -> None:
    spec = CodedResNetSpec(BlockCode("Xbottleneck", base, ("1", "2", "2", "2")), groups=groups, group_width=width)
    assert parse_module(format_module(spec)) == spec
    assert (spec.groups, spec.group_width) == (groups * (groups != base // 2), width * (width != 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet50(groups=2)", "groups: expected 0 for a bottleneck, which has no groups, got 2"),
        ("mobilenetv2(last=1)", "last: expected 2 to 5, got 1"),
        ("resnext50(group_width=1025)", "group_width: expected 0 to 1024"),
        ("resnet18(last=6)", "last: expected 2 to 5, got 6"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_module(text)
    assert message in str(caught.value)


def test_names_and_atoms_say_the_same() -> None:
    for name, spec in CLASSICAL.items():
        assert parse_module(name) == spec
    assert format_module(CLASSICAL["resnext50"]) == "resnext50_32x4d"
    pairs = itertools.combinations(set(CLASSICAL.values()), 2)
    assert all(format_module(a) != format_module(b) for a, b in pairs)
    assert format_module(parse_module("Xbottleneck_56_1-2-2-2(groups=28)")) == "Xbottleneck_56_1-2-2-2"
