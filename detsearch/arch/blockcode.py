"""SM-NAS block codes (Yao et al., AAAI 2020, stage two).

    <block>_<base width>_<stage 2>-<stage 3>-<stage 4>-<stage 5>        basicblock_64_1-21-21-12

In a stage each digit is a block: ``1`` keeps the width, ``2`` doubles it. A ``-`` starts a stage of half the
resolution, whose first block has stride 2; the first block of stage 2 has stride 1, since the stem already ends at
stride 4. The base width is the width before the first ``2``. Stage l ends in the field's level P{l}.

The closed forms here count what `nn.backbones.coded` builds; a test holds the two equal.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Literal, NamedTuple, Self, get_args

from detsearch.errors import SpecError
from detsearch.types import InputSize

Block = Literal["basicblock", "bottleneck", "Xbottleneck", "mbblock"]
Stem = Literal["deep", "7x7"]
"""``deep``: two 3x3 convolutions of stride 2 (base/2, then base channels), as in SM-NAS; ``7x7``: the classical 7x7
convolution of stride 2 with base channels and a 3x3 max-pooling of stride 2, as in ResNet."""

StrideIn = Literal["3x3", "1x1"]
"""The convolution of a bottleneck that halves the resolution."""

BLOCKS: Final[tuple[Block, ...]] = get_args(Block)
STEMS: Final[tuple[Stem, ...]] = get_args(Stem)
OUT_FACTOR: Final[dict[Block, int]] = {"basicblock": 1, "bottleneck": 4, "Xbottleneck": 4, "mbblock": 1}
"""Channels that a block gives out, per unit of width."""
GROUP_WIDTH: Final = 4
"""Channels of a group at the base width, where nothing else is said (ResNeXt 32x4d)."""
EXPANSION: Final = 6
"""Of the inverted residual (MobileNetV2)."""
FIRST_STAGE: Final = 2
LAST_STAGE: Final = 5
MAX_BLOCKS: Final = 512
"""A code with more blocks than this is refused: it is a mistake or an attack, not a network."""


class ConvShape(NamedTuple):
    """One convolution with the normalisation that follows it, as the closed forms see it."""

    inputs: int
    outputs: int
    kernel: int
    groups: int
    height: int
    width: int

    @property
    def params(self) -> int:
        """Weights without bias, and the norm's scale and shift."""
        return self.outputs * (self.inputs // self.groups) * self.kernel**2 + 2 * self.outputs

    @property
    def macs(self) -> int:
        return self.outputs * (self.inputs // self.groups) * self.kernel**2 * self.height * self.width


class _Part(NamedTuple):
    """The stem, or one block, with its cost: equal ones recur within a code and from one code to the next."""

    convolutions: tuple[ConvShape, ...]
    params: int
    macs: int

    @classmethod
    def of(cls, *convolutions: ConvShape) -> Self:
        return cls(convolutions, sum(conv.params for conv in convolutions), sum(conv.macs for conv in convolutions))


class BlockShape(NamedTuple):
    """One block of a code: its stage, input and output channels, width (planes) and stride."""

    stage: int
    inputs: int
    outputs: int
    planes: int
    stride: int


@dataclass(frozen=True)
class BlockCode:
    """A backbone's stages. `stages` are four non-empty strings of ``1`` and ``2``."""

    block: Block
    base: int
    stages: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise SpecError("block code", " or ".join(BLOCKS), repr(self.block))
        if not 4 <= self.base <= 1024 or self.base % 2:
            raise SpecError("base width of a block code", "an even number from 4 to 1024", str(self.base))
        if len(self.stages) != 4:
            raise SpecError(
                "block code", "four stages joined by '-'", f"{len(self.stages)} in {'-'.join(self.stages)!r}"
            )
        for number, stage in enumerate(self.stages, FIRST_STAGE):
            if not stage or set(stage) - {"1", "2"}:
                raise SpecError(f"stage {number} of a block code", "one or more of the digits 1 and 2", repr(stage))
        if self.depth > MAX_BLOCKS or self.doublings > 8:
            raise SpecError("block code", f"at most {MAX_BLOCKS} blocks and 8 doublings", str(self))

    @classmethod
    def parse(cls, text: str) -> BlockCode:
        """Read a code; SpecError says which part is wrong."""
        parts = text.split("_")
        if len(parts) != 3 or re.fullmatch("[0-9]{1,5}", parts[1]) is None:
            raise SpecError("block code", "<block>_<base width>_<stages> such as basicblock_64_1-21-21-12", repr(text))
        block, base, stages = parts
        return cls(block, int(base), tuple(stages.split("-")))  # type: ignore[arg-type]  # checked by __post_init__

    def __str__(self) -> str:
        return f"{self.block}_{self.base}_{'-'.join(self.stages)}"

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(map(len, self.stages))

    @property
    def doublings(self) -> int:
        return sum(stage.count("2") for stage in self.stages)

    @cached_property
    def blocks(self) -> tuple[BlockShape, ...]:
        """Every block in order, with its channels and stride."""
        factor, planes, inputs = OUT_FACTOR[self.block], self.base, self.base
        shapes = []
        for stage, digits in enumerate(self.stages, FIRST_STAGE):
            for i, digit in enumerate(digits):
                planes *= int(digit)
                stride = 2 if i == 0 and stage > FIRST_STAGE else 1
                shapes.append(BlockShape(stage, inputs, planes * factor, planes, stride))
                inputs = planes * factor
        return tuple(shapes)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of P2..P5."""
        return tuple({shape.stage: shape.outputs for shape in self.blocks}.values())

    def traits(self) -> dict[str, float | str]:
        """What the code is made of, for models and statistics: kind of block, base, blocks and width of each stage."""
        found: dict[str, float | str] = {"block": self.block, "base": float(self.base)}
        for stage, digits, outputs in zip(range(FIRST_STAGE, LAST_STAGE + 1), self.stages, self.channels, strict=True):
            found[f"blocks{stage}"] = float(len(digits))
            found[f"width{stage}"] = outputs / OUT_FACTOR[self.block]
        return found

    def grouped(self, planes: int, groups: int = 0, group_width: int = 0) -> tuple[int, int]:
        """Channels and groups of the 3x3 convolution in a bottleneck of width `planes`.

        An `Xbottleneck` has `groups` (0: base/2) of `group_width` (0: 4) channels each at the base width, which double
        where the width does: at base 64 ResNeXt's 32x4d (Xie et al., CVPR 2017).
        """
        if self.block != "Xbottleneck":
            return planes, 1
        number = groups or self.base // 2
        return number * (group_width or GROUP_WIDTH) * (planes // self.base), number

    def convolutions(
        self,
        size: InputSize,
        stem: Stem = "deep",
        stride_in: StrideIn = "3x3",
        *,
        groups: int = 0,
        group_width: int = 0,
        last: int = LAST_STAGE,
    ) -> Iterator[ConvShape]:
        """Every convolution at an input of `size` pixels, down to stage `last`."""
        for part in self._parts(size, stem, stride_in, groups, group_width, last):
            yield from part.convolutions

    def _parts(
        self, size: InputSize, stem: Stem, stride_in: StrideIn, groups: int, group_width: int, last: int
    ) -> Iterator[_Part]:
        """The stem, then every block."""
        yield _stem(stem, self.base, size)
        height, width = (_half(_half(side)) for side in (size.height, size.width))
        for shape in self.blocks:
            if shape.stage > last:
                return
            before = height, width
            if shape.stride == 2:
                height, width = _half(height), _half(width)
            grouped = self.grouped(shape.planes, groups, group_width)
            yield _block(self.block, shape, before, (height, width), stride_in, *grouped)

    def params(self, stem: Stem = "deep", *, groups: int = 0, group_width: int = 0, last: int = LAST_STAGE) -> int:
        """Parameters of the backbone, norms included, without a classifier."""
        return sum(part.params for part in self._parts(InputSize(32, 32), stem, "3x3", groups, group_width, last))

    def macs(
        self,
        size: InputSize,
        stem: Stem = "deep",
        stride_in: StrideIn = "3x3",
        *,
        groups: int = 0,
        group_width: int = 0,
        last: int = LAST_STAGE,
    ) -> int:
        """Multiply-accumulates of the backbone's convolutions at `size`, batch 1."""
        return sum(part.macs for part in self._parts(size, stem, stride_in, groups, group_width, last))


def leq(a: BlockCode, b: BlockCode) -> bool:
    """Is b the same as a, deeper, or wider?

    Same kind of block; b's base is at least a's; in every stage b has at least as many blocks, and each is at least as
    wide as a's block in that place. So an earlier doubling is wider. Widths only grow along a code, so that what b's
    stages give out is at least as wide too. The groups of an `Xbottleneck` must not become narrower either: their width
    follows planes / base, so that with equal planes a larger base alone would make it cheaper, whether the number of
    groups is base/2 or given.
    """
    if a.block != b.block or a.base > b.base:
        return False
    grouped = a.block == "Xbottleneck"
    for wide_a, wide_b in zip(_widths(a), _widths(b), strict=True):
        if len(wide_a) > len(wide_b):
            return False
        for x, y in zip(wide_a, wide_b, strict=False):
            if x > y or (grouped and x * b.base > y * a.base):
                return False
    return True


def _widths(code: BlockCode) -> list[list[int]]:
    """Width of every block, by stage."""
    stages: list[list[int]] = [[] for _ in code.stages]
    for shape in code.blocks:
        stages[shape.stage - FIRST_STAGE].append(shape.planes)
    return stages


def changes(code: BlockCode, *, max_depth: int = 102, doublings: Collection[int] = ()) -> list[list[BlockCode]]:
    """Every code that is one step away, each once, by kind of step: a block that keeps the width added, removed; a
    block moved to the stage beside it; a doubling moved to the block beside it; a doubling more or less, as far as
    their number is among `doublings` (none named: it stays). No stage becomes empty; the base stays. Symmetric among
    the codes of at most `max_depth` blocks (never more than `MAX_BLOCKS`) whose number of doublings is among those."""
    # Of equal neighbouring digits only the last is handled: any other gives the same code.
    deepest = min(max_depth, MAX_BLOCKS)
    added: list[BlockCode] = []
    removed: list[BlockCode] = []
    shifted: list[BlockCode] = []
    for i, stage in enumerate(code.stages):
        if code.depth < deepest:
            places = (at for at in range(len(stage) + 1) if stage[at : at + 1] != "1")
            added += [_with(code, i, f"{stage[:at]}1{stage[at:]}") for at in places]
        if len(stage) > 1:
            places = (at for at in range(len(stage)) if stage[at] == "1" and stage[at + 1 : at + 2] != "1")
            removed += [_with(code, i, stage[:at] + stage[at + 1 :]) for at in places]
        if i + 1 < len(code.stages):
            after = code.stages[i + 1]
            if len(after) > 1:
                shifted.append(_with(code, i, stage + after[0], after[1:]))
            if len(stage) > 1:
                shifted.append(_with(code, i, stage[:-1], stage[-1] + after))
    flat = "".join(code.stages)
    moved = [
        _cut(code, flat[:at] + flat[at + 1] + flat[at] + flat[at + 2 :])
        for at in range(len(flat) - 1)
        if flat[at] != flat[at + 1]
    ]
    other = {"1": "2", "2": "1"}
    changed = [
        _cut(code, flat[:at] + other[digit] + flat[at + 1 :])
        for at, digit in enumerate(flat)
        if code.doublings + (1 if digit == "1" else -1) in doublings
    ]
    return [added, removed, shifted, moved, changed]


def _with(code: BlockCode, at: int, *stages: str) -> BlockCode:
    """The code with some stages from number `at` on replaced."""
    return BlockCode(code.block, code.base, (*code.stages[:at], *stages, *code.stages[at + len(stages) :]))


def _cut(code: BlockCode, flat: str) -> BlockCode:
    """The code with other digits, cut into stages of the same lengths."""
    cuts = [0, *itertools.accumulate(map(len, code.stages))]
    return BlockCode(code.block, code.base, tuple(flat[a:b] for a, b in itertools.pairwise(cuts)))


def _half(side: int) -> int:
    """A side after a 3x3 stride-2 convolution of padding 1 (7x7 of padding 3, pooling alike)."""
    return math.ceil(side / 2)


@lru_cache(maxsize=1 << 10)
def _stem(stem: Stem, base: int, size: InputSize) -> _Part:
    height, width = _half(size.height), _half(size.width)
    if stem == "7x7":
        return _Part.of(ConvShape(3, base, 7, 1, height, width))
    return _Part.of(
        ConvShape(3, base // 2, 3, 1, height, width), ConvShape(base // 2, base, 3, 1, _half(height), _half(width))
    )


@lru_cache(maxsize=1 << 16)
def _block(
    block: Block,
    shape: BlockShape,
    before: tuple[int, int],
    after: tuple[int, int],
    stride_in: StrideIn,
    inner: int,
    groups: int,
) -> _Part:
    """The convolutions of a block between maps of sizes (height, width)."""
    inputs, outputs, planes = shape.inputs, shape.outputs, shape.planes
    if block == "mbblock":
        hidden = inputs * EXPANSION
        return _Part.of(  # no projection: an inverted residual has a shortcut only where the shape stays
            ConvShape(inputs, hidden, 1, 1, *before),
            ConvShape(hidden, hidden, 3, hidden, *after),
            ConvShape(hidden, outputs, 1, 1, *after),
        )
    changed = shape.stride == 2 or inputs != outputs
    projection = [ConvShape(inputs, outputs, 1, 1, *after)] if changed else []
    if block == "basicblock":
        return _Part.of(ConvShape(inputs, planes, 3, 1, *after), ConvShape(planes, planes, 3, 1, *after), *projection)
    return _Part.of(
        ConvShape(inputs, inner, 1, 1, *(before if stride_in == "3x3" else after)),
        ConvShape(inner, inner, 3, groups, *after),
        ConvShape(inner, outputs, 1, 1, *after),
        *projection,
    )
