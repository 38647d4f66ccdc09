"""What the tests of parity with torchvision's detectors share: the same weights, batches and samples on both sides."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork

from detsearch.arch.code import parse_module, parse_network
from detsearch.build import build
from detsearch.nn.backbones.coded import build_coded
from detsearch.nn.backbones.weights import load_strictly
from detsearch.nn.detector import Detector
from detsearch.nn.structures import Detections, ImageBatch, Targets
from detsearch.nn.torchvision_weights import from_torchvision

BODY = "basicblock_16_1-2-2-2(stem=7x7)"
"""The slim detectors' backbone."""
CASES = {
    "landscape": ([(96, 160)], (96, 160)),
    "portrait": ([(150, 90)], (160, 96)),
    "tiny": ([(64, 50)], (64, 64)),
    "no multiple of 32": ([(101, 133)], (101, 133)),
    "four of different sizes": ([(90, 128), (96, 101), (70, 128), (96, 64)], (96, 128)),
}
"""Batches of the slim detectors: heights and widths of the images, and of the tensor."""


class SlimBackbone(nn.Module):
    """Our `BODY` below torchvision's pyramid, with the names of torchvision's backbones."""

    def __init__(
        self,
        levels: tuple[int, ...],
        width: int,
        extra: ExtraFPNBlock,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        coded = build_coded(parse_module(BODY), norm="bn")  # type: ignore[arg-type]
        stages = {name: module for name, module in coded.named_children() if name != "stem"}
        self.body = nn.ModuleDict({**dict(coded.stem.named_children()), **stages})
        channels = [c for level, c in zip(coded.out.levels, coded.out.channels, strict=True) if level in levels]
        self.fpn = FeaturePyramidNetwork(channels, width, extra, norm_layer=norm_layer)
        self.levels, self.out_channels = levels, width

    def forward(self, pixels: Tensor) -> OrderedDict[str, Tensor]:
        maps = []
        for name, module in self.body.items():
            pixels = module(pixels)
            if name.startswith("layer"):
                maps.append(pixels)
        chosen = maps[self.levels[0] - 2 :]
        found: OrderedDict[str, Tensor] = self.fpn(OrderedDict((str(i), x) for i, x in enumerate(chosen)))
        return found


class Preprocessed(nn.Module):
    """Stands for torchvision's own resizing and normalising: hands the batch through."""

    def __init__(self, batch: ImageBatch) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, images: list[Tensor], targets: Any) -> tuple[ImageList, Any]:
        return ImageList(self.batch.pixels, [tuple(size) for size in self.batch.sizes.tolist()]), targets

    def postprocess(self, result: Any, *_: Any) -> Any:
        return result


def noise(sizes: list[tuple[int, int]], padded: tuple[int, int], dtype: torch.dtype, seed: int = 3) -> ImageBatch:
    """Normalised pixels with a padding of zeros; `sizes` and `padded` are height and width."""
    pixels = torch.zeros((len(sizes), 3, *padded), dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    for i, (height, width) in enumerate(sizes):
        pixels[i, :, :height, :width] = torch.randn((3, height, width), generator=generator, dtype=dtype)
    return ImageBatch(pixels, torch.tensor(sizes))


def as_lists(targets: Targets, first_label: int = 0) -> list[dict[str, Tensor]]:
    """Targets as torchvision takes them; `first_label` is what it calls class 0: 1 in its detectors of two stages."""
    rows = zip(targets.boxes, targets.labels, targets.valid, strict=True)
    return [{"boxes": boxes[valid], "labels": labels[valid] + first_label} for boxes, labels, valid in rows]


def answers(reference: nn.Module, batch: ImageBatch) -> list[dict[str, Tensor]]:
    """torchvision's detections of a batch."""
    _forget_scales(reference)
    reference.transform = Preprocessed(batch)
    with torch.no_grad():
        found: list[dict[str, Tensor]] = reference(list(batch.pixels))
    return found


def losses(reference: nn.Module, batch: ImageBatch, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """torchvision's losses; its norms stay as they are."""
    _forget_scales(reference)
    reference.transform = Preprocessed(batch)
    with _training(reference):
        found: dict[str, Tensor] = reference(list(batch.pixels), targets)
    return found


@contextmanager
def _training(reference: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in reference.modules() if not isinstance(module, nn.BatchNorm2d)]
    for module, _ in modes:
        module.training = True
    yield
    for module, mode in modes:
        module.training = mode


def _forget_scales(reference: nn.Module) -> None:
    """Its pooling infers the maps' strides from the first batch that it sees, and keeps them."""
    for module in reference.modules():
        if hasattr(module, "map_levels"):
            module.scales = None


def same_detections(ours: Detections, i: int, their: dict[str, Tensor], *, exact: bool, first_label: int = 0) -> None:
    """Image `i`'s detections are torchvision's: within 1e-6 and in the same order if `exact`, else within 0.05 pixels
    and 1e-4 of score."""
    valid = ours.valid[i]
    boxes, scores, labels = ours.boxes[i][valid], ours.scores[i][valid], ours.labels[i][valid] + first_label
    assert len(boxes) == len(their["boxes"])
    if exact:
        assert torch.equal(labels, their["labels"])
        torch.testing.assert_close(boxes, their["boxes"], rtol=0, atol=1e-6)
        torch.testing.assert_close(scores, their["scores"], rtol=0, atol=1e-6)
        return
    # Nearly equal scores may swap places: each answer takes the nearest of its class that is still free.
    apart = (boxes[:, None] - their["boxes"]).abs().amax(dim=-1)
    apart = apart.masked_fill(labels[:, None] != their["labels"], torch.inf)
    unlike = (scores[:, None] - their["scores"]).abs()
    for row in range(len(boxes)):
        partner = int((apart[row] / 0.05 + unlike[row] / 1e-4).argmin())
        assert apart[row, partner] <= 0.05
        assert unlike[row, partner] <= 1e-4
        apart[:, partner] = torch.inf


def same_losses(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    """`names`: torchvision's name of each of our losses."""
    assert ours.keys() == names.keys()
    assert sorted(names.values()) == sorted(theirs)
    for name, loss in ours.items():
        tolerance = 1e-6 if loss.dtype == torch.float64 else 1e-4
        # torchvision's objectness labels are float32, and so is the loss that it makes of them.
        torch.testing.assert_close(loss, theirs[names[name]], rtol=tolerance, atol=tolerance, check_dtype=False)


def same_gradients(detector: nn.Module, reference: nn.Module) -> None:
    """Of every parameter, after both went backward; they are cleared."""
    expected = from_torchvision({name: p.grad for name, p in reference.named_parameters() if p.grad is not None})
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=1e-9 * max(1.0, scale), msg=name)
    reference.zero_grad()
    detector.zero_grad()


def twin(reference: nn.Module, network: str, num_classes: int) -> Detector:
    """Our `network` with torchvision's weights, in evaluation mode."""
    detector = build(parse_network(network), num_classes).to(next(reference.parameters()).dtype)
    load_strictly(detector, from_torchvision(reference.state_dict()), "torchvision")
    return detector.eval()


def settle(
    reference: nn.Module,
    batch: ImageBatch,
    targets: list[dict[str, Tensor]],
    deviations: Mapping[str, float],
    seed: int = 0,
) -> None:
    """Weights and statistics as a trained network might have them, so that many anchors and classes answer.

    On the given batch the outputs of every convolution and linear layer outside the body have deviation 1, those whose
    names end as in `deviations` another one. Batch norms get the batch's statistics and scales and shifts of their own.
    """
    torch.manual_seed(seed)
    done: set[nn.Module] = set()

    def scale(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        wanted = next((value for end, value in deviations.items() if name.endswith(end)), 1.0)

        def hook(module: nn.Module, _: Any, output: Tensor) -> Tensor | None:
            if module in done:  # a head's layers see one level after the other
                return None
            done.add(module)
            factor = wanted / output.std()
            module.weight.mul_(factor)
            return output * factor

        return hook

    hooks = []
    for name, module in reference.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and not name.startswith("backbone.body"):
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            hooks.append(module.register_forward_hook(scale(name)))
    reference.train()
    with torch.no_grad():
        losses(reference, batch, targets)
        for hook in hooks:
            hook.remove()
        for name, parameter in reference.named_parameters():
            if name.endswith("bias") and not name.startswith("backbone.body"):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    reference.eval()


class EvenSampler:
    """As `BalancedSampler`, but spread evenly over the candidates in place of chance."""

    def __init__(self, count: int, positive_share: float) -> None:
        self.count, self.positives = count, int(count * positive_share)

    def __call__(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        chosen = _evenly(positive, torch.tensor(self.positives))
        return chosen, _evenly(negative, self.count - chosen.sum(dim=1, keepdim=True))


class TheirEvenSampler:
    """The same for torchvision: an image's labels are -1 where ignored, 0 for background, more for objects."""

    def __init__(self, count: int, positive_share: float) -> None:
        self.sampler = EvenSampler(count, positive_share)

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        chosen = [self.sampler((image >= 1)[None], (image == 0)[None]) for image in labels]
        return [p[0].to(torch.uint8) for p, _ in chosen], [n[0].to(torch.uint8) for _, n in chosen]


def _evenly(candidates: Tensor, wanted: Tensor) -> Tensor:
    """(B, A) bool: of an image's n candidates `wanted` (or all, if there are fewer), one of every n / wanted."""
    number = candidates.sum(dim=1, keepdim=True)
    taken = torch.minimum(number, wanted)
    place = candidates.cumsum(dim=1)
    step = (place * taken) // number.clamp(min=1)
    return candidates & (step > ((place - 1) * taken) // number.clamp(min=1))
