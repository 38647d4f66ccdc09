"""Bilevel search: alpha on the loss of one half of the data, weights on that of the other (FAD, ECCV 2020, sec. 3.3;
Liu et al., "DARTS", ICLR 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from detsearch.errors import TrainingError
from detsearch.supernet.cells import Architecture

Order = Literal["first", "second", "exact"]
"""How the gradient of alpha is taken: at the current weights; at those after one more step of theirs, of which alpha is
part, with DARTS's difference of two gradients for the second derivative; the same by differentiating twice, which takes
more memory, and for which every operation must be differentiable twice (the deformable convolution of guided anchoring
is not)."""

Batch = Sequence[Any]
"""What the network is called with."""
CLIP_NORM: Final = 20.0
RATES: Final = {"architecture": "alpha_lr, or lr", "weights": "lr"}
"""What to lower where the losses of a step are not finite; alpha_lr alone where alpha is not."""


def alpha_optimiser(architecture: Architecture, *, lr: float = 3e-4, weight_decay: float = 1e-3) -> torch.optim.Adam:
    """Adam with DARTS's settings."""
    return torch.optim.Adam(architecture.parameters(), lr=lr, betas=(0.5, 0.999), weight_decay=weight_decay)


class Bilevel:
    """Steps of a search, `architecture_step` and `weights_step` in turn, each on its own half of the data.

    `network`, called with a batch, gives losses by name, and has the parameters of `architecture` among its own;
    `weights` is the optimiser of its others. `term` is a further loss of the architecture. Gradients are clipped at the
    norm `clip_norm`. `dtype`: of autocast, None for none; the small difference of the second order is taken in float32
    whatever it is. `iteration` counts the steps of the weights.
    """

    def __init__(
        self,
        network: nn.Module,
        architecture: Architecture,
        weights: torch.optim.Optimizer,
        alpha: torch.optim.Optimizer,
        *,
        order: Order = "first",
        clip_norm: float = CLIP_NORM,
        term: Callable[[Architecture], Tensor] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.network, self.architecture = network, architecture
        self.weights, self.alpha = weights, alpha
        self.order, self.clip_norm, self.term, self.dtype = order, clip_norm, term, dtype
        self.iteration = 0
        own = {id(parameter) for parameter in architecture.parameters()}
        named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        self._alphas = [parameter for parameter in named.values() if id(parameter) in own]
        self._weights = {name: parameter for name, parameter in named.items() if id(parameter) not in own}
        assert len(self._alphas) == len(own), "the network must have the architecture's parameters"
        assert order == "first" or isinstance(weights, torch.optim.SGD), "the step looked ahead on is one of SGD"

    def architecture_step(self, batch: Batch, training: Batch | None = None) -> dict[str, float]:
        """Change alpha, and nothing else. Orders other than the first need the `training` batch of the weights' next
        step. The losses by name, and the gradient's norm; TrainingError, nothing changed, if one is not finite, and if
        alpha is not after the step."""
        with _steady(self.network):
            if self.order == "first":
                losses = self._at_current_weights(batch)
            else:
                assert training is not None
                look = self._looking_ahead if self.order == "second" else self._looking_ahead_exactly
                losses = look(batch, training)
        values = self._step("architecture", self.alpha, self._alphas, losses)
        if broken := self._broken_alpha():
            raise self._error("architecture", broken, "alpha_lr")
        return values

    def weights_step(self, batch: Batch) -> dict[str, float]:
        """Change the weights (and the statistics of batch norms), and not alpha. The losses by name, and the gradient's
        norm; TrainingError, no weight changed, if one is not finite."""
        with _fixed(self._alphas):
            losses = self._losses(batch)
            _total(losses).backward()  # type: ignore[no-untyped-call]
        values = self._step("weights", self.weights, list(self._weights.values()), losses)
        self.iteration += 1
        return values

    def _at_current_weights(self, batch: Batch) -> dict[str, Tensor]:
        """The gradient of alpha with weights as they are. Nothing in front of the supernet has anything to learn here,
        so it is computed as in inference: no graph, nothing kept."""
        with _fixed(self._weights.values()):
            losses = self._architecture_losses(batch)
            _total(losses).backward()  # type: ignore[no-untyped-call]
        return losses

    def _looking_ahead(self, batch: Batch, training: Batch) -> dict[str, Tensor]:
        """The gradient of alpha through the weights' next step, w - rate * dL(w, alpha)/dw. The second derivative times
        a vector is the difference of two gradients along it (DARTS, eq. 8), at a distance that balances its error
        against rounding; in float32 about DARTS's 0.01."""
        weights = list(self._weights.values())
        chance = int(torch.randint(2**31, ()))  # all passes over the training batch must draw the same samples
        with _fixed(self._alphas), self._drawing(chance):
            slopes = _gradients(self._losses(training), weights)
        rates = self._rates()
        before = [weight.detach().clone() for weight in weights]
        try:
            self._move(self._ahead(weights, slopes, rates))
            losses = self._architecture_losses(batch)
            both = _gradients(losses, [*self._alphas, *weights])
            direct, slopes = both[: len(self._alphas)], both[len(self._alphas) :]
            along = [rate * slope for rate, slope in zip(rates, slopes, strict=True)]
            length = torch.stack([part.norm() for part in along]).norm()
            near = 2 * torch.finfo(length.dtype).eps ** (1 / 3) / length.clamp(min=torch.finfo(length.dtype).tiny)
            sides = []
            for sign in (1, -1):
                self._move([old + sign * near * part for old, part in zip(before, along, strict=True)])
                with _fixed(weights), self._drawing(chance):
                    # In bfloat16, whose steps are larger than this one, both sides would mostly be the same.
                    sides.append(_gradients(self._losses(training, cast=False), self._alphas))
        finally:
            self._move(before)
        for alpha, now, right, left in zip(self._alphas, direct, *sides, strict=True):
            alpha.grad = now - (right - left) / (2 * near)
        return losses

    def _looking_ahead_exactly(self, batch: Batch, training: Batch) -> dict[str, Tensor]:
        """The same gradient by differentiating the step."""
        weights = list(self._weights.values())
        slopes = _gradients(self._losses(training), weights, differentiable=True)
        ahead = dict(zip(self._weights, self._ahead(weights, slopes, self._rates()), strict=True))
        losses = self._architecture_losses(batch, ahead)
        for alpha, gradient in zip(self._alphas, _gradients(losses, self._alphas), strict=True):
            alpha.grad = gradient
        return losses

    @contextmanager
    def _drawing(self, seed: int) -> Iterator[None]:
        """Within, torch's global generators begin at a seed; afterwards they are where they were."""
        device = self._alphas[0].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def _losses(
        self, batch: Batch, weights: dict[str, Tensor] | None = None, *, cast: bool = True
    ) -> dict[str, Tensor]:
        kind = self._alphas[0].device.type
        with torch.autocast(kind, dtype=self.dtype, enabled=cast and self.dtype is not None):
            losses: dict[str, Tensor] = functional_call(self.network, weights or {}, tuple(batch))
        return losses

    def _architecture_losses(self, batch: Batch, weights: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        losses = self._losses(batch, weights)
        return losses if self.term is None else {**losses, "cost": self.term(self.architecture)}

    def _rates(self) -> list[float]:
        """The learning rate of each weight."""
        rates = {id(p): group["lr"] for group in self.weights.param_groups for p in group["params"]}
        return [float(rates.get(id(weight), 0.0)) for weight in self._weights.values()]

    def _ahead(self, weights: list[nn.Parameter], slopes: list[Tensor], rates: list[float]) -> list[Tensor]:
        """Where SGD's next step takes the weights, momentum and decay among it, clipping not."""
        group_of = {id(p): group for group in self.weights.param_groups for p in group["params"]}
        ahead = []
        for weight, slope, rate in zip(weights, slopes, rates, strict=True):
            group = group_of.get(id(weight), {"weight_decay": 0.0, "momentum": 0.0})
            change = slope + group["weight_decay"] * weight.detach()
            buffer = self.weights.state.get(weight, {}).get("momentum_buffer")
            if buffer is not None:
                change = change + group["momentum"] * buffer
            ahead.append(weight.detach() - rate * change)
        return ahead

    @torch.no_grad()
    def _move(self, values: Iterable[Tensor]) -> None:
        for weight, value in zip(self._weights.values(), values, strict=True):
            weight.copy_(value)

    def _step(
        self, name: str, optimiser: torch.optim.Optimizer, learning: list[nn.Parameter], losses: dict[str, Tensor]
    ) -> dict[str, float]:
        norm = nn.utils.clip_grad_norm_(learning, self.clip_norm)
        found = [*(value.detach() for value in losses.values()), norm]
        values = dict(zip([*losses, "grad_norm"], torch.stack(found).tolist(), strict=True))
        if broken := [f"{key} is {value}" for key, value in values.items() if not math.isfinite(value)]:
            optimiser.zero_grad(set_to_none=True)
            lost = self._broken_alpha()
            raise self._error(name, [*lost, *broken], "alpha_lr" if lost else RATES[name])
        optimiser.step()
        # The fused step does not tell autograd that it wrote, on which whoever keeps a function of weights relies.
        torch.autograd.graph.increment_version(learning)
        optimiser.zero_grad(set_to_none=True)
        return values

    def _broken_alpha(self) -> list[str]:
        """What is to be said of alpha where it is not finite."""
        alphas = dict(self.architecture.alpha.items())
        finite = torch.stack([alpha.detach().isfinite().all() for alpha in alphas.values()]).tolist()
        return [f"alpha of {group} is not finite" for group, whole in zip(alphas, finite, strict=True) if not whole]

    def _error(self, step: str, broken: list[str], rate: str) -> TrainingError:
        return TrainingError(f"iteration {self.iteration + 1}, {step} step: {', '.join(broken)}; lower {rate}")


def _total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def _gradients(losses: dict[str, Tensor], of: Sequence[Tensor], *, differentiable: bool = False) -> list[Tensor]:
    """Of the losses' sum, zeros where it does not depend on one."""
    return list(
        torch.autograd.grad(_total(losses), of, create_graph=differentiable, allow_unused=True, materialize_grads=True)
    )


@contextmanager
def _fixed(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within, these need no gradient."""
    fixed = list(parameters)
    for parameter in fixed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in fixed:
            parameter.requires_grad_(True)


@contextmanager
def _steady(network: nn.Module) -> Iterator[None]:
    """Within, batch norms that train use the statistics of a batch, as ever, and do not add them to their running
    ones."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
