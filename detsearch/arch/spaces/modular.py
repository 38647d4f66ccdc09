"""The modular space (SM-NAS, stage two): what is inside the modules of one structure.

The backbone's block code, that is, its base width, the blocks of every stage and where its width doubles, and the width
of the neck, which the head follows. Everything else stays as the structure has it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from pydantic import Field, ValidationError

from detsearch.arch.blockcode import MAX_BLOCKS, BlockCode, Stem, changes
from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import format_detector, format_module
from detsearch.arch.modules.backbones import CodedResNetSpec, coded
from detsearch.arch.presets import resolve
from detsearch.arch.spaces.base import draw_change
from detsearch.arch.spaces.even import STAGES, EvenCodes
from detsearch.arch.spec import DetectorSpec, ModuleSpec, Norm
from detsearch.errors import RecipeError, SpecError
from detsearch.types import InputSize
from detsearch.yamlfile import Section, explain

MODULES: Final = "modules"
"""What a recipe calls the section."""
WIDTHS: Final = (128, 256, 512)
MAX_DOUBLINGS: Final = 8
_WHERE: Final = f"space.{MODULES}"


class ModularChoices(Section):
    """What may vary inside a structure. Defaults are the paper's."""

    structure: str = Field(description="A detector with its input: preset, code, or a file that holds one.")
    base: list[int] = Field([48, 56, 64, 72], min_length=1, description="Widths before the first doubling.")
    width: list[int] = Field([], description="Widths of the neck; empty: 128, 256, 512 where there is a neck.")
    depth: int = Field(102, ge=STAGES, le=MAX_BLOCKS, description="Most blocks of all four stages together.")
    doublings: list[int] = Field(
        [3], min_length=1, description="How often the width may double, such as [3] or [2, 3]."
    )
    spread: tuple[float, float] = Field(
        (0.25, 2.0),
        description="Least and greatest MACs of drawn members' backbones, in units of the structure's own; between "
        "them draws are even on a logarithmic scale. Mutations may lead beyond.",
    )
    stem: Stem = Field("deep", description="deep: two 3x3 convolutions; 7x7: the classical one, with a max-pooling.")
    norm: Norm = Field("gn_ws", description="Norm of every member; gn_ws trains from scratch with few images a batch.")


@dataclass(frozen=True)
class ModularSpace:
    """Codes of the structure's kind of block with four stages that are not empty, at most `depth` blocks and a number
    of doublings among `doublings`, with every base and every width of the neck (none: as the structure has it).

    A mutation adds, removes or moves a block, moves a doubling (adds or removes one, where their number may vary),
    or changes base or width: first the kind of change is drawn, then the change. Any member can be reached from any
    other, which is why there may always be a block that does not double.
    """

    structure: DetectorSpec
    bases: tuple[int, ...] = (48, 56, 64, 72)
    widths: tuple[int, ...] = WIDTHS
    depth: int = 102
    doublings: tuple[int, ...] = (3,)
    spread: tuple[float, float] = (0.25, 2.0)
    stem: Stem = "deep"
    norm: Norm = "gn_ws"

    def __post_init__(self) -> None:
        if self._own.last != STAGES + 1:
            raise RecipeError(f"{_WHERE}.structure", "a backbone with all stages", format_module(self._own))
        if list(self.doublings) != list(range(self.doublings[0], self.doublings[-1] + 1)):
            raise RecipeError(f"{_WHERE}.doublings", "ascending numbers without a gap", str(list(self.doublings)))
        if self.doublings[0] < 0 or self.doublings[-1] > MAX_DOUBLINGS:
            raise RecipeError(f"{_WHERE}.doublings", f"numbers from 0 to {MAX_DOUBLINGS}", str(list(self.doublings)))
        if self.depth <= self.doublings[-1]:
            received = f"{self.depth} with {self.doublings[-1]} doublings"
            raise RecipeError(f"{_WHERE}.depth", "more blocks than doublings", received)
        for name, values in (("base", self.bases), ("width", self.widths)):
            if list(values) != sorted(set(values)) or (values and values[0] < 1):
                raise RecipeError(f"{_WHERE}.{name}", "ascending numbers from 1 on, each once", str(list(values)))
        low, high = self.spread
        if not 0 < low <= high:
            raise RecipeError(f"{_WHERE}.spread", "two positive numbers, the first not the greater", f"{low}, {high}")
        try:
            for base, width in itertools.product(self.bases, self.widths or (0,)):
                code = BlockCode(self._own.code.block, base, ("2" * self.doublings[0] + "1", *"111"))
                spec = self._member(code, width)
                catalogue().check(spec.network)
                catalogue().check_input(spec)
        except SpecError as error:
            raise RecipeError(_WHERE, "members that are valid", str(error)) from None
        least, most = self._codes.span
        if least > most:
            unit = self._unit
            least, most = (cost / unit for cost in self._codes.extent)
            wanted = f"a range that meets {least:.3g} to {most:.3g}, between which the codes' MACs are"
            hint = "choose bases that are nearer to the structure's own"
            raise RecipeError(f"{_WHERE}.spread", wanted, f"{low:g} to {high:g}", hint)

    @classmethod
    def from_section(cls, section: Any, *, shared: bool = False) -> ModularSpace:
        """Read a recipe's section, the fields of `ModularChoices`; RecipeError names the field. In a section that
        structures have `shared`, widths are for those whose neck has one."""
        try:
            read = ModularChoices.model_validate(section)
        except ValidationError as problem:
            raise explain(problem, _WHERE, RecipeError, ModularChoices) from None
        try:
            structure = resolve(read.structure)
            coded(structure.network.backbone)
        except SpecError as error:
            wanted = "a preset or a detector's code, with a backbone that has a block code"
            raise RecipeError(f"{_WHERE}.structure", wanted, f"{read.structure!r} ({error})") from None
        has_width = isinstance(getattr(structure.network.neck, "width", None), int)
        if read.width and not has_width and not shared:
            raise RecipeError(f"{_WHERE}.width", "none, for a structure whose neck has no width", str(read.width))
        return cls(
            structure=structure,
            bases=tuple(read.base),
            widths=(tuple(read.width) or WIDTHS) if has_width else (),
            depth=read.depth,
            doublings=tuple(read.doublings),
            spread=read.spread,
            stem=read.stem,
            norm=read.norm,
        )

    def to_choices(self) -> dict[str, dict[str, Any]]:
        """The section, with every field: what identifies a space."""
        return {
            MODULES: {
                "structure": format_detector(self.structure),
                "base": list(self.bases),
                "width": list(self.widths),
                "depth": self.depth,
                "doublings": list(self.doublings),
                "spread": list(self.spread),
                "stem": self.stem,
                "norm": self.norm,
            }
        }

    @cached_property
    def _own(self) -> CodedResNetSpec:
        """The structure's backbone as a code."""
        return coded(self.structure.network.backbone)

    @property
    def _tensor(self) -> InputSize:
        return self.structure.input.padded()

    @property
    def _unit(self) -> int:
        """MACs of the structure's backbone."""
        return self._own.macs(self._tensor)

    @cached_property
    def _codes(self) -> EvenCodes:
        low, high = (share * self._unit for share in self.spread)
        block = self._own.code.block
        return EvenCodes(block, self.bases, self.doublings, self.depth, self._macs, low, high)

    def _backbone(self, code: BlockCode) -> CodedResNetSpec:
        return replace(self._own, code=code, stem=self.stem)

    def _macs(self, code: BlockCode) -> int:
        return self._backbone(code).macs(self._tensor)

    def _member(self, code: BlockCode, width: int) -> DetectorSpec:
        """`width` 0: the neck as the structure has it."""
        changed: dict[str, Any] = {"backbone": self._backbone(code), "norm": self.norm}
        neck: ModuleSpec | None = self.structure.network.neck
        if width and neck is not None:
            changed["neck"] = replace(neck, width=width)  # type: ignore[call-arg]  # it has one: from_section looked
        return self.structure.with_network(**changed)

    @property
    def frame(self) -> DetectorSpec:
        """A member in which all that may vary is at its least: spaces of equal choices have the same one if, and only
        if, they have the same members."""
        code = BlockCode(self._own.code.block, self.bases[0], ("2" * self.doublings[0] + "1", "1", "1", "1"))
        return self._member(code, self.widths[0] if self.widths else 0)

    def _parts(self, spec: DetectorSpec) -> tuple[BlockCode, int] | None:
        """The code, and the width where it varies; None where there is no code."""
        if not isinstance(spec.network.backbone, CodedResNetSpec):
            return None
        return spec.network.backbone.code, getattr(spec.network.neck, "width", 0) if self.widths else 0

    def fault(self, spec: DetectorSpec) -> str | None:
        """Why a detector is no member; None where it is one."""
        if (wrong := self.inner_fault(spec)) is not None:
            return wrong
        parts = self._parts(spec)
        assert parts is not None, "inner_fault looked"
        member = self._member(*parts)
        return None if member == spec else f"with its code and width the space has {format_detector(member)}"

    def inner_fault(self, spec: DetectorSpec) -> str | None:
        """What is wrong with what varies, whatever a detector is else: the block code and the neck's width; None where
        nothing is."""
        parts = self._parts(spec)
        if parts is None:
            return "its backbone is no block code"
        code, width = parts
        if code.block != self._own.code.block:
            return f"its blocks are no {self._own.code.block}"
        if (wrong := self._fault(code)) is not None:
            return wrong
        if self.widths and width not in self.widths:
            return f"its neck's width is none of {', '.join(map(str, self.widths))}"
        return None

    def _fault(self, code: BlockCode) -> str | None:
        if code.base not in self.bases:
            return f"base width {code.base} is none of {', '.join(map(str, self.bases))}"
        if code.depth > self.depth:
            return f"{code.depth} blocks are more than {self.depth}"
        if code.doublings not in self.doublings:
            return f"its width doubles {code.doublings} times, not {' or '.join(map(str, self.doublings))}"
        return None

    def likeness(self, spec: DetectorSpec) -> int:
        """How much of a detector is as here: 2 where only code and width may differ, 1 where the kind of block is the
        same, 0 where not even that is."""
        parts = self._parts(spec)
        if parts is None or parts[0].block != self._own.code.block:
            return 0
        alike = type(spec.network.neck) is type(self.structure.network.neck)  # else its width may be none of this one
        return 2 if alike and self._member(*parts) == spec else 1

    def contains(self, spec: DetectorSpec) -> bool:
        return self.fault(spec) is None

    def size(self) -> int:
        """Exact: sizes of four stages times places of the doublings, by depth."""
        codes = sum(
            math.comb(depth - 1, STAGES - 1) * math.comb(depth, count)
            for depth in range(STAGES, self.depth + 1)
            for count in self.doublings
        )
        return codes * len(self.bases) * max(1, len(self.widths))

    def all(self) -> Iterator[DetectorSpec]:
        """One at a time, shallow ones first."""
        for depth in range(STAGES, self.depth + 1):
            for count in self.doublings:
                for places in itertools.combinations(range(depth), count):
                    digits = "".join("2" if at in places else "1" for at in range(depth))
                    for cuts in itertools.combinations(range(1, depth), STAGES - 1):
                        stages = tuple(digits[a:b] for a, b in itertools.pairwise((0, *cuts, depth)))
                        for base, width in itertools.product(self.bases, self.widths or (0,)):
                            yield self._member(BlockCode(self._own.code.block, base, stages), width)

    def sample(self, rng: np.random.Generator) -> DetectorSpec:
        """A detector drawn evenly over the logarithm of its backbone's MACs, within `spread`: drawn evenly over codes,
        nearly all would be as deep as is allowed. The backbone's, because they are known in closed form; the width of
        the neck is drawn on its own."""
        return self.sample_between(rng, 0.0, 1.0)

    def place(self, spec: DetectorSpec) -> float:
        """Where a member's backbone lies among those that are drawn, 0 to 1 on the logarithmic scale of MACs."""
        return self._codes.place(coded(spec.network.backbone).code)

    def sample_between(self, rng: np.random.Generator, low: float, high: float) -> DetectorSpec:
        """A member drawn as by `sample`, from a part of that scale."""
        code = self._codes.draw(rng, (low, high))
        return self._member(code, self.widths[int(rng.integers(len(self.widths)))] if self.widths else 0)

    def neighbours(self, spec: DetectorSpec) -> Iterator[DetectorSpec]:
        """Every member that is one change away from a detector whose backbone is a code of the same kind of block."""
        return itertools.chain.from_iterable(self._changed(spec))

    def mutate(self, spec: DetectorSpec, rng: np.random.Generator) -> DetectorSpec:
        return draw_change(self._changed(spec), rng) or spec

    def _changed(self, spec: DetectorSpec) -> list[list[DetectorSpec]]:
        """The members that are one change away, by kind of change."""
        parts = self._parts(spec)
        if parts is None or parts[0].block != self._own.code.block:
            return []
        code, width = parts
        kinds = changes(code, max_depth=self.depth, doublings=self.doublings)
        kinds.append([BlockCode(code.block, base, code.stages) for base in self.bases if base != code.base])
        sound = not self.widths or width in self.widths  # as a member's is
        found = [[self._member(c, width) for c in kind if sound and self._fault(c) is None] for kind in kinds]
        others = () if self._fault(code) else self.widths
        return [*found, [self._member(code, other) for other in others if other != width]]
