"""The modules that come with detsearch, as data: their fields, what they may stand beside, what makes them deeper or
wider, and where their builders are. A kind of slot, a file."""

from __future__ import annotations

from typing import Final

from detsearch.arch.catalogue import Descriptor
from detsearch.arch.modules.backbones import BACKBONES
from detsearch.arch.modules.heads import HEADS
from detsearch.arch.modules.masks import MASKS
from detsearch.arch.modules.necks import NECKS
from detsearch.arch.modules.proposals import PROPOSALS
from detsearch.arch.modules.towers import TOWERS

MODULES: Final[tuple[Descriptor, ...]] = (*BACKBONES, *NECKS, *PROPOSALS, *HEADS, *MASKS, *TOWERS)
