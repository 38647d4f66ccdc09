"""A catalogue of toys whose fields are of every kind that has a text form, and hypothesis strategies over it."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Final, Literal, Self, get_args

from hypothesis import strategies as st

from detsearch.arch.blockcode import BLOCKS, STEMS, Block, BlockCode
from detsearch.arch.catalogue import ABSENT, WORD, Catalogue, Descriptor
from detsearch.arch.cells import OPERATIONS, CellSpec, Edge
from detsearch.arch.modules import MODULES
from detsearch.arch.modules.backbones import CLASSICAL, CodedResNetSpec, TimmSpec
from detsearch.arch.modules.fields import LayerNorm
from detsearch.arch.modules.heads import BoxLoss, FCOSHeadSpec, RetinaNetHeadSpec
from detsearch.arch.modules.necks import ExtraFrom, FPNSpec, PAFPNSpec
from detsearch.arch.modules.towers import CellTowersSpec, GroupOrder
from detsearch.arch.spec import NORMS, DetectorSpec, ModuleSpec, NetworkSpec
from detsearch.types import InputSize

CELLS: Final = "sep3(0)+std3(1)|std1(2)+sep1d2(1)|sep2(2)+std2(3)"


@dataclass(frozen=True)
class Cells:
    """An atom with brackets, pipes and plus signs: nodes of edges ``operation(source)``."""

    nodes: tuple[tuple[tuple[str, int], ...], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, not SpecError, as other people's classes will."""
        nodes = []
        for node in text.split("|"):
            edges = [re.fullmatch(r"([a-z0-9]+)\(([0-9]{1,2})\)", edge) for edge in node.split("+")]
            nodes.append(tuple((edge[1], int(edge[2])) if edge else _refuse(text) for edge in edges))
        return cls(tuple(nodes))

    def __str__(self) -> str:
        return "|".join("+".join(f"{name}({source})" for name, source in node) for node in self.nodes)


def _refuse(text: str) -> tuple[str, int]:
    raise ValueError(f"no cells: {text}")


@dataclass(frozen=True)
class Scalars(ModuleSpec):
    """A backbone with a field of every plain kind; the first has no default."""

    depth: int
    rate: float = 1.0
    flag: bool = False
    model: str = "plain"
    kind: Literal["a", "b-c"] = "a"
    groups: Literal[1, 2] = 1
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None
    label: str | None = "x"


@dataclass(frozen=True)
class CellBlock(ModuleSpec):
    """An inner module that its cells alone stand for."""

    cells: Cells
    residual: bool = True


@dataclass(frozen=True)
class Mask(ModuleSpec):
    """An inner module with a module of its own."""

    width: int = 256
    cells: Cells | None = None
    deeper: ModuleSpec | None = None


@dataclass(frozen=True)
class CellHead(ModuleSpec):
    """A head with two groups of cells and modules inside it."""

    cls: Cells
    reg: Cells
    mask: Mask | None = None
    block: CellBlock | Mask = Mask(8)


TOYS: Final = (
    Descriptor(
        slot="backbone",
        token="scalars",
        spec=Scalars,
        builder="nowhere:build",
        summary="every plain kind of field",
        names={"scalars_big": Scalars(9, rate=0.5, flag=True), "scalars-2.0": Scalars(2)},
        order={"depth": operator.le},
    ),
    Descriptor(
        slot="inner",
        token="cellblock",
        spec=CellBlock,
        builder="nowhere:build",
        summary="an atom inside",
        atom=("cells", r"[a-z0-9]+\([0-9]+\)([+|][a-z0-9]+\([0-9]+\))*"),
    ),
    Descriptor(
        slot="inner",
        token="stencil",
        spec=Mask,
        builder="nowhere:build",
        summary="modules in modules",
        order={"width": operator.le},
        names={"nonesuch": Mask(64)},
    ),
    Descriptor(
        slot="head",
        token="cellhead",
        spec=CellHead,
        builder="nowhere:build",
        summary="two groups of cells",
        beside={"proposals": (ABSENT,)},
    ),
)
TOY_CATALOGUE: Final = Catalogue([*MODULES, *TOYS])
OURS: Final = Catalogue(MODULES)

words = st.from_regex(WORD, fullmatch=True)
cells = st.builds(
    Cells,
    st.lists(
        st.lists(
            st.tuples(st.from_regex(r"[a-z][a-z0-9]{0,4}", fullmatch=True), st.integers(0, 99)), min_size=1, max_size=3
        ).map(tuple),
        min_size=1,
        max_size=4,
    ).map(tuple),
)
cell_blocks = st.builds(CellBlock, cells, st.booleans())
masks = st.recursive(
    st.builds(Mask, st.integers(-9, 999), st.none() | cells),
    lambda inner: st.builds(Mask, st.integers(1, 9), st.none() | cells, inner | cell_blocks),
    max_leaves=4,
)
heads = st.builds(CellHead, cells, cells, st.none() | masks, cell_blocks | masks)
scalars = st.builds(
    Scalars,
    depth=st.integers(-(10**18) + 1, 10**18 - 1),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    model=words,
    kind=st.sampled_from(["a", "b-c"]),
    groups=st.sampled_from([1, 2]),
    sizes=st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=5).map(tuple),
    limit=st.none() | st.integers(-9, 9),
    label=st.none() | words.filter(lambda word: word != ABSENT),
) | st.sampled_from(list(TOYS[0].names.values()))


def block_codes(
    *, blocks: tuple[Block, ...] = BLOCKS, bases: st.SearchStrategy[int] | None = None, longest: int = 6
) -> st.SearchStrategy[BlockCode]:
    """Valid codes with at most eight doublings."""
    stage = st.text("12", min_size=1, max_size=longest)
    stages = st.tuples(stage, stage, stage, stage).filter(lambda s: "".join(s).count("2") <= 8)
    bases = bases if bases is not None else st.integers(2, 512).map(lambda half: 2 * half)
    return st.builds(BlockCode, st.sampled_from(blocks), bases, stages)


@st.composite
def grown(draw: st.DrawFn, blocks: tuple[Block, ...] = BLOCKS) -> list[BlockCode]:
    """Codes of which each is deeper or wider than the one before: a block added at a stage's end, a doubling moved
    forward, or a wider base."""
    codes = [draw(block_codes(blocks=blocks, bases=st.sampled_from([4, 6, 32]), longest=3))]
    for _ in range(draw(st.integers(1, 4))):
        block, base, stages = codes[-1].block, codes[-1].base, list(codes[-1].stages)
        match draw(st.sampled_from(["deeper", "earlier", "wider"])):
            case "deeper":
                stages[draw(st.integers(0, 3))] += "1"
            case "earlier":
                stages = "-".join(stages).replace("12", "21", 1).split("-")
            case "wider":
                base += 2
        codes.append(BlockCode(block, base, tuple(stages)))
    return codes


def _coded(code: BlockCode, stem: str, in_1x1: bool, groups: int, group_width: int, last: int) -> CodedResNetSpec:
    bottleneck, grouped = code.block in ("bottleneck", "Xbottleneck"), code.block == "Xbottleneck"
    stride_in = "1x1" if in_1x1 and bottleneck else "3x3"
    return CodedResNetSpec(code, stem, stride_in, groups * grouped, group_width * grouped, last)  # type: ignore[arg-type]


few, lasts = st.integers(0, 64), st.integers(2, 5)
widths, depths, layer_norms = (
    st.just(0) | st.integers(8, 2048),
    st.integers(1, 16),
    st.sampled_from(get_args(LayerNorm)),
)
coded = st.builds(_coded, block_codes(), st.sampled_from(STEMS), st.booleans(), few, few, lasts) | st.sampled_from(
    list(CLASSICAL.values())
)
timm = st.builds(TimmSpec, st.from_regex(r"[a-z0-9_]{1,20}(\.[a-z0-9_]{1,9})?", fullmatch=True), lasts)
fpn = st.sampled_from([FPNSpec, PAFPNSpec]).flatmap(
    lambda kind: st.builds(
        kind,
        st.sets(st.integers(2, 7), min_size=1).map(lambda levels: tuple(sorted(levels))),
        st.integers(8, 2048),
        st.sampled_from(get_args(ExtraFrom)),
        layer_norms,
    )
)


@st.composite
def cell_specs(draw: st.DrawFn) -> CellSpec:
    """Cells of up to four nodes, each of any number of edges, in any order."""
    nodes = []
    for number in range(2, 2 + draw(st.integers(1, 4))):
        sources = draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=number, unique=True))
        nodes.append(tuple(Edge(draw(st.sampled_from(list(OPERATIONS))), source) for source in sources))
    return CellSpec(tuple(nodes))


towers = st.builds(
    CellTowersSpec,
    cell_specs(),
    cell_specs(),
    st.lists(st.integers(8, 2048), min_size=1, max_size=2).map(tuple),
    st.integers(1, 8),
    st.sampled_from(get_args(GroupOrder)),
    layer_norms,
)
losses = st.sampled_from(get_args(BoxLoss))
scales = st.floats(0.5, 32)
one_stage = (
    st.builds(RetinaNetHeadSpec, widths, depths, scales, layer_norms, losses)
    | st.builds(RetinaNetHeadSpec, anchor_scale=scales, loss=losses, tower=towers)
    | st.builds(FCOSHeadSpec, widths, depths, layer_norms)
    | st.builds(FCOSHeadSpec, tower=towers)
)
inputs = st.builds(InputSize, st.integers(128, 16384), st.integers(128, 16384))


def detectors(*, toys: bool = False) -> st.SearchStrategy[DetectorSpec]:
    """Detectors of our modules, or with toys among them."""
    networks = st.builds(
        NetworkSpec,
        backbone=coded | timm | scalars if toys else coded | timm,
        neck=fpn,
        head=one_stage | heads if toys else one_stage,
        norm=st.sampled_from(NORMS),
    )
    return st.builds(lambda network, size: network.at(size), networks, inputs)
