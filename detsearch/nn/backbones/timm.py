"""Backbones from timm by name, with maps from P2 on. Nothing is downloaded unless `imagenet_state` is asked for."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from timm.layers.norm_act import BatchNormAct2d, GroupNormAct
from torch import Tensor, nn

from detsearch.arch.modules.backbones import TimmSpec
from detsearch.arch.modules.fields import BACKBONE_LEVELS
from detsearch.arch.spec import Norm
from detsearch.errors import ResourceError, SpecError
from detsearch.nn.backbones.timm_stages import flat, remove_behind, stages_of
from detsearch.nn.backbones.weights import State
from detsearch.nn.norms import GroupNorm, WSConv2d
from detsearch.types import FeatureSpec


class TimmBackbone(nn.Module):
    """The maps of strides 4, 8, ... 2**`last` of a timm model; where a stride occurs more than once, its deepest map.
    What follows the last of them is left out.

    Under ``gn`` every batch norm is replaced, under ``gn_ws`` also every convolution without bias (the ones that a norm
    follows). SpecError if the model is unknown, lacks such maps, takes one input size only, or cannot be so converted.
    """

    def __init__(self, model: str, norm: Norm, *, last: int = BACKBONE_LEVELS[-1]) -> None:
        super().__init__()
        if not timm.is_model(model):
            close = difflib.get_close_matches(model, timm.list_models(), n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else None
            raise SpecError("model", "a timm model name", repr(model), hint)
        self.model, self.norm = model, norm
        self.body = _features(model, pretrained=False)
        info: Any = self.body.feature_info
        cfg: Any = self.body.pretrained_cfg
        strides, channels = info.reduction(), info.channels()
        deepest = {stride: i for i, stride in enumerate(strides)}
        levels = range(BACKBONE_LEVELS[0], last + 1)
        wanted = [2**level for level in levels]
        if not set(wanted) <= set(deepest) or cfg.get("fixed_input_size"):
            got = f"maps of stride {sorted(deepest)}" if not set(wanted) <= set(deepest) else "one fixed input size"
            expected = f"maps of strides {', '.join(map(str, wanted))} at any input size"
            raise SpecError(f"timm model {model}", expected, got)
        self.chosen = tuple(deepest[stride] for stride in wanted)
        ends = info.module_name()
        stem = max((i for stride, i in deepest.items() if stride < wanted[0]), default=None)
        self.stem_end = None if stem is None else ends[stem]
        self.stage_ends = tuple(ends[i] for i in self.chosen)
        self.cut = self.chosen[-1] < len(strides) - 1
        if self.cut:
            remove_behind(self.body, self.stage_ends[-1])
        self.channels_last_axis = str(getattr(self.body, "output_fmt", None)).endswith("NHWC")
        if norm != "bn":
            _to_group_norm(self.body)
        if norm == "gn_ws":
            _to_weight_standardisation(self.body, model)
        self.out = FeatureSpec.of(tuple(levels), tuple(channels[i] for i in self.chosen))
        self.pixel_mean, self.pixel_std = tuple(cfg["mean"]), tuple(cfg["std"])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.body(x)
        chosen = [maps[i] for i in self.chosen]
        return [m.permute(0, 3, 1, 2) for m in chosen] if self.channels_last_axis else chosen

    def stages(self) -> list[list[nn.Module]]:
        """The stem, then the stages that end in P2, P3, ...; SpecError where they cannot be told apart."""
        return stages_of(self.body, self.stem_end, self.stage_ends)

    def imagenet_state(self) -> State:
        """Published weights under this module's names; ResourceError where there are none or they cannot be had."""
        if self.norm != "bn":
            raise ResourceError("imagenet weights", "norm bn, which they were published with", self.norm)
        try:
            published = _features(self.model, pretrained=True)
        except (OSError, RuntimeError) as error:  # no network, no cache; timm's RuntimeError: nothing published
            raise ResourceError(f"imagenet weights of {self.model}", "to be published and within reach", str(error),
                                "give a local file instead") from error  # fmt: skip
        if self.cut:
            remove_behind(published, self.stage_ends[-1])
        return {f"body.{key}": value for key, value in published.state_dict().items()}

    def adopt(self, state: State) -> State:
        """A file with timm's names, of the whole classifier, under this module's names. What the classifier has behind
        or beside these maps is left out."""
        own = self.state_dict()
        if set(state) & set(own):
            return state
        # Wrapped feature models write dots of module paths as underscores.
        names = {flat(key): key for key in own}
        with torch.device("meta"):
            classifier = {flat(key) for key in timm.create_model(self.model).state_dict()}
        adopted: State = {}
        for key, value in state.items():
            name = names.get(f"body_{flat(key)}")
            if name is not None or flat(key) not in classifier:
                adopted[name or key] = value
        return adopted


def _features(model: str, *, pretrained: bool) -> nn.Module:
    try:
        body: nn.Module = timm.create_model(model, features_only=True, pretrained=pretrained)
    except (AttributeError, NotImplementedError) as error:  # how timm's models without maps answer
        raise SpecError(f"timm model {model}", "a model with feature maps", str(error)) from error
    return body


def _to_group_norm(body: nn.Module) -> None:
    for path, module in list(body.named_modules()):
        if isinstance(module, BatchNormAct2d):
            new: nn.Module = GroupNormAct(module.num_features, num_groups=GroupNorm(module.num_features).num_groups)
            new.drop, new.act = module.drop, module.act
        elif isinstance(module, nn.BatchNorm2d):
            new = GroupNorm(module.num_features)
        else:
            continue
        body.set_submodule(path, new)


def _to_weight_standardisation(body: nn.Module, model: str) -> None:
    for path, module in list(body.named_modules()):
        if not isinstance(module, nn.Conv2d) or module.bias is not None:
            continue
        if type(module) is not nn.Conv2d:
            raise SpecError(f"norm beside timm model {model}", f"bn or gn, for its {type(module).__name__}", "gn_ws")
        new = WSConv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,  # type: ignore[arg-type]
            module.stride,  # type: ignore[arg-type]
            module.padding,  # type: ignore[arg-type]
            module.dilation,  # type: ignore[arg-type]
            module.groups,
            bias=False,
        )
        new.weight = module.weight
        body.set_submodule(path, new)


def build_timm(spec: TimmSpec, *, norm: Norm) -> TimmBackbone:
    return TimmBackbone(spec.model, norm, last=spec.last)
