"""Exact cost of a detector: parameters, multiply-accumulates and memory access, per part.

Counted are the operations that PyTorch's FLOP counter knows: convolutions, linear layers, matrix products and
attention, and deformable convolution. For each of them

* MACs are half its floating point operations;
* memory access is the number of elements of all its inputs, weights and biases among them, and of its output
  (Ma et al., ShuffleNet V2, section 3, G1). A layer that runs on five levels reads its weights five times.

Norms, activations, pooling, resampling, anchors, decoding and NMS have no MACs here and no memory access. One image of
the padded input size is counted at the nominal load: as many proposals and mask regions as there may be, since their
number would depend on the weights; `CostMetrics.regions` says how many.

Nothing is multiplied: backbone and neck run on meta tensors, which have a shape and no memory, and in the rest,
whose control flow looks at values, every counted operation answers zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from math import prod
from typing import Any

import torch
import torchvision  # noqa: F401  (defines torch.ops.torchvision)
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, register_flop_formula

from detsearch.arch.spec import SLOTS
from detsearch.nn.classifier import Classifier
from detsearch.nn.detector import Detector
from detsearch.nn.nominal import nominal_load
from detsearch.nn.structures import ImageBatch, Proposals
from detsearch.types import CostMetrics, InputSize, PartCost


def count_cost(detector: Detector, input: InputSize) -> CostMetrics:
    """Cost at `input`, batch 1, without latency; every slot is among the parts, an empty one with zeros.

    The detector is left as it was. Parameters shared between parts count for the first of them.
    """
    size = input.padded()
    like = next(detector.parameters())
    images = ImageBatch(
        torch.zeros((1, 3, size.height, size.width), dtype=torch.uint8, device=like.device),
        torch.tensor([[size.height, size.width]], device=like.device),
    )
    counted = {slot: _Counter() for slot in SLOTS}
    modules = detector.parts()
    with torch.no_grad(), _evaluating(detector), nominal_load(detector):
        with counted["backbone"]:
            features = _on_meta(modules["backbone"], torch.empty(images.pixels.shape, dtype=like.dtype, device="meta"))
        if "neck" in modules:
            with counted["neck"]:
                features = _on_meta(modules["neck"], features)
        else:
            features = features[-1:]
        features = [torch.zeros_like(map_, device=like.device) for map_ in features]
        proposals = None
        regions: dict[str, int] = {}
        if detector.proposals is not None:
            with counted["proposals"]:
                proposed, _ = detector.proposals.propose(features, images, None)
            regions["proposals"] = int(proposed.valid.sum())  # `keep`, or fewer where the maps have fewer places
            proposals = _some_proposals(regions["proposals"], size, like.device)
        with counted["head"]:
            found = detector.head.detect(features, images, proposals)
        if found.masks is not None:
            regions["masks"] = int(found.valid.sum())

    return _joined({slot: (modules.get(slot), counter) for slot, counter in counted.items()}, regions)


def count_classifier(classifier: Classifier, input: InputSize) -> CostMetrics:
    """Cost of a backbone, and of what makes a classifier of it, at `input` as it is, batch 1."""
    counted = {name: (module, _Counter()) for name, module in classifier.parts().items()}
    with torch.no_grad(), _evaluating(classifier):
        like = next(classifier.parameters())
        found: Any = torch.empty((1, 3, input.height, input.width), dtype=like.dtype, device="meta")
        for module, counter in counted.values():
            with counter:
                found = _on_meta(module, found)
            found = found[-1]  # of the maps, the last
    return _joined(counted, {})


def _joined(counted: Mapping[str, tuple[nn.Module | None, _Counter]], regions: Mapping[str, int]) -> CostMetrics:
    """The whole of what was counted in each part, an absent one without parameters."""
    parts: dict[str, PartCost] = {}
    seen: set[int] = set()
    for name, (module, counter) in counted.items():
        params = [p for p in (() if module is None else module.parameters()) if id(p) not in seen]
        seen.update(map(id, params))
        parts[name] = PartCost(
            params=sum(p.numel() for p in params), macs=counter.macs, memory_access=counter.memory_access
        )
    return CostMetrics(
        params=sum(part.params for part in parts.values()),
        macs=sum(part.macs for part in parts.values()),
        memory_access=sum(part.memory_access for part in parts.values()),
        parts=parts,
        regions=regions,
    )


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that have a FLOP formula and lets them answer zeros instead of running."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = self.memory_access = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func.overloadpacket)
        if formula is None:
            return func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        device = inputs[0].device
        # Shapes come from the meta kernel; a weight may lie elsewhere than the meta map it is applied to.
        args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        out = func(*args, **kwargs)
        first = tree_leaves(out)[0]  # attention also gives what its backward pass needs
        self.macs += formula(*args, **kwargs, out_val=out) // 2
        self.memory_access += sum(map(Tensor.numel, inputs)) + first.numel()
        return tree_map_only(Tensor, lambda t: torch.zeros_like(t, device=device), out)


def _on_meta(module: nn.Module, argument: Any) -> Any:
    """Call a module on meta tensors without moving or copying it."""
    state = {name: tensor.to("meta") for name, tensor in chain(module.named_parameters(), module.named_buffers())}
    return functional_call(module, state, (argument,))


@contextmanager
def _evaluating(detector: nn.Module) -> Iterator[None]:
    """Eval mode within; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in detector.modules()]
    detector.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _some_proposals(number: int, size: InputSize, device: torch.device) -> Proposals:
    """Boxes of all sizes and places in the image."""
    corners = torch.rand((1, number, 2, 2), generator=torch.Generator().manual_seed(0)).sort(dim=2).values
    boxes = (corners * torch.tensor([size.width, size.height])).flatten(2).to(device)
    scores = torch.linspace(1, 0, number, device=device)[None]
    return Proposals(boxes, scores, torch.ones_like(scores, dtype=torch.bool))


if torch.ops.torchvision.deform_conv2d not in flop_registry:

    @register_flop_formula(torch.ops.torchvision.deform_conv2d)
    def _deform_conv2d_flops(_input: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        """As a convolution of the same shape; the sampling is not counted. `weight` (out, in / groups, kh, kw)."""
        return int(2 * prod(out_shape) * prod(weight[1:]))
