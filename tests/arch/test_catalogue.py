from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import pytest

from detsearch.arch.blockcode import BlockCode
from detsearch.arch.catalogue import ABSENT, Catalogue, Descriptor
from detsearch.arch.modules import MODULES
from detsearch.arch.modules.backbones import CodedResNetSpec, TimmSpec
from detsearch.arch.modules.heads import RetinaNetHeadSpec
from detsearch.arch.modules.necks import FPNSpec
from detsearch.arch.spec import DetectorSpec, ModuleSpec, NetworkSpec
from detsearch.errors import SpecError, UserError
from detsearch.types import InputSize
from tests.arch.toys import OURS


@dataclass(frozen=True)
class Coarse(ModuleSpec):
    """A backbone without P2."""


@dataclass(frozen=True)
class Silent(ModuleSpec):
    """A backbone that does not tell its levels."""


@dataclass(frozen=True)
class Regions(ModuleSpec):
    """Proposals."""


@dataclass(frozen=True)
class TwoStage(ModuleSpec):
    """A head that wants proposals and takes the last map or an FPN's."""


def toy(slot: Any, token: str, spec: type[ModuleSpec], **more: Any) -> Descriptor:
    return Descriptor(slot=slot, token=token, spec=spec, builder="toys:build", summary="", **more)


KNOWN = Catalogue(
    [
        *MODULES,
        toy("backbone", "coarse", Coarse, levels=lambda *_: (3, 4, 5)),
        toy("backbone", "silent", Silent),
        toy("proposals", "regions", Regions),
        toy("head", "twostage", TwoStage, beside={"proposals": ("*",), "neck": ("fpn", ABSENT)}),
    ]
)
R18 = CodedResNetSpec(BlockCode.parse("basicblock_64_11-21-21-21"), "7x7")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"backbone": R18, "neck": FPNSpec(), "proposals": Regions(), "head": RetinaNetHeadSpec()},
            "proposals beside retinanet: expected none, got regions",
        ),
        (
            {"backbone": R18, "neck": FPNSpec(), "head": TwoStage()},
            "proposals beside twostage: expected any proposals, got none",
        ),
        (
            {"backbone": FPNSpec(), "neck": FPNSpec(), "head": RetinaNetHeadSpec()},
            "backbone: expected a backbone module, got fpn, which is a neck module",
        ),
        (
            {"backbone": Coarse(), "neck": FPNSpec((2, 3)), "head": RetinaNetHeadSpec()},
            "levels of the neck: expected levels of the backbone (3-4-5) or above, got 2-3",
        ),
    ],
)
def test_a_combination_that_cannot_stand_is_explained(parts: dict[str, ModuleSpec], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        KNOWN.check(NetworkSpec(**parts))  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "parts",
    [
        {"backbone": R18, "neck": FPNSpec((2, 5, 7)), "head": RetinaNetHeadSpec()},
        {"backbone": Coarse(), "neck": FPNSpec((3, 6)), "head": RetinaNetHeadSpec()},
        {"backbone": Silent(), "neck": FPNSpec((2, 3)), "head": RetinaNetHeadSpec()},
        {"backbone": TimmSpec("mobilenetv2_100"), "proposals": Regions(), "head": TwoStage()},
        {"backbone": R18, "neck": FPNSpec(), "proposals": Regions(), "head": TwoStage()},
    ],
)
def test_combinations_that_can_stand(parts: dict[str, ModuleSpec]) -> None:
    KNOWN.check(NetworkSpec(**parts))  # type: ignore[arg-type]


def test_an_unknown_kind_says_what_may_be_missing() -> None:
    with pytest.raises(SpecError, match="got Coarse; is the package installed that brings it"):
        OURS.check(NetworkSpec(backbone=Coarse(), neck=FPNSpec(), head=RetinaNetHeadSpec()))


@pytest.mark.parametrize(
    ("neck", "side", "fits"),
    [(FPNSpec(), 128, True), (FPNSpec(), 127, False), (FPNSpec((3, 4)), 16, True), (None, 32, True), (None, 31, False)],
)
def test_the_input_must_hold_the_largest_stride(neck: FPNSpec | None, side: int, fits: bool) -> None:
    network = NetworkSpec(backbone=R18, neck=neck, proposals=Regions(), head=TwoStage())
    for size in (InputSize(side, 500), InputSize(500, side)):
        spec = DetectorSpec(network=network, input=size)
        if fits:
            KNOWN.check_input(spec)
        else:
            with pytest.raises(SpecError, match="input: expected at least"):
                KNOWN.check_input(spec)


@pytest.mark.parametrize(
    ("descriptor", "message"),
    [
        (toy("neck", "fpn", Silent), "got 'fpn', which is taken twice"),
        (toy("neck", "resnet18", Silent), "got 'resnet18', which is taken twice"),
        (toy("neck", "mine", Silent, names={"fpn": Silent()}), "got 'fpn', which is taken twice"),
        (toy("neck", "none", Silent), "and no norm, got 'none'"),
        (toy("neck", "gn_ws", Silent), "and no norm, got 'gn_ws'"),
        (toy("neck", "two words", Silent), "expected a name of letters"),
        (toy("neck", "", Silent), "expected a name of letters"),
        (toy("legs", "mine", Silent), "expected slot backbone, neck, proposals, head or inner, got 'legs'"),
        (toy("neck", "mine", FPNSpec), "got FPNSpec, which describes 'fpn'"),
        (toy("neck", "mine", Silent, order={"depth": operator.le}), "got depth"),
        (toy("neck", "mine", Silent, atom=("cells", ".*")), "got cells"),
    ],
)
def test_a_wrong_descriptor_is_refused_by_name(descriptor: Descriptor, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Catalogue([*MODULES, descriptor])
    assert message in str(caught.value)
    assert f"{descriptor.token!r} of toys:build" in str(caught.value)


@pytest.mark.parametrize("descriptor", MODULES, ids=lambda descriptor: descriptor.token)
def test_every_builder_of_ours_can_be_loaded(descriptor: Descriptor) -> None:
    assert callable(descriptor.load_builder())
