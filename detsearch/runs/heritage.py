"""How a trial begins with the weights of another one, and what is written down of it beside its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from torch import nn

from detsearch.errors import CheckpointError
from detsearch.files import write_json
from detsearch.search.inheritance import Heritage
from detsearch.search.trial import TrialContext
from detsearch.training.inheritance import inherit
from detsearch.training.loop import CHECKPOINT

RECORD: Final = "inherited.json"
"""Written before the first checkpoint, so that whoever goes on with that knows what it began with."""


def begin_with(network: nn.Module, context: TrialContext, epochs: int, *, first: bool = True) -> None:
    """Put what fits of the weights in ``context.inherits`` into a fresh network, unless its training has begun already,
    in ``context.folder`` or in ``context.start``. What was taken is said (of `epochs` none is done yet) and written
    into the folder; so is why, where there is nothing to take, and the training begins from scratch. Of several
    processes that train together all take the same, and the `first` one says and writes it."""
    if context.inherits is None or (context.folder / CHECKPOINT).exists():
        return
    if context.start is not None and (context.start / CHECKPOINT).exists():
        heritage, new = read_heritage(context.start), False
    else:
        heritage, new = _take(network, context.inherits), True
    if first and heritage is not None:
        write_json(context.folder / RECORD, heritage.model_dump(mode="json"))
        if new:
            context.report(0, epochs, f"inherited from trial {context.inherits.name}: {heritage}")


def read_heritage(folder: Path) -> Heritage | None:
    """What the training in a folder began with; None where nothing tells."""
    try:
        return Heritage.model_validate(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):  # a file from outside may be anything
        return None


def _take(network: nn.Module, folder: Path) -> Heritage:
    try:
        taken = inherit(network, folder / CHECKPOINT)
    except CheckpointError as error:
        return Heritage(missing=str(error))
    before = read_heritage(folder)
    epochs = taken.epochs + (0 if before is None else before.epochs) if taken.tensors else 0
    return Heritage(tensors=taken.tensors, of=taken.of, share=taken.share, epochs=epochs)
