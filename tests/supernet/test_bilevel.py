"""Steps of a search: gradients of alpha against finite differences, and what each step may change."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from detsearch.arch.cells import SETS
from detsearch.errors import TrainingError
from detsearch.nn.norms import Norms
from detsearch.supernet.bilevel import Bilevel, alpha_optimiser
from detsearch.supernet.detector import SupernetSettings
from tests.supernet.small import CHANNELS, NORMS, group, maps

RATE, MOMENTUM, DECAY = 0.5, 0.9, 0.01


class Small(nn.Module):
    """A convolution with batch norm, as a backbone; a supernet; losses as a detector's."""

    def __init__(self, supernet: nn.Module) -> None:
        super().__init__()
        self.group = supernet
        self.backbone = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.BatchNorm2d(CHANNELS)).double()

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        level = self.backbone(x)
        found = self.group(level, level)
        return {"square": (found - y).square().mean(), "size": 0.1 * found.abs().mean()}


def made(order="first", *, norms=NORMS, settings=None, **options):
    settings = settings or SupernetSettings(operations=("std1", "sep2", "std1d2"), nodes=2)
    supernet, architecture = group(settings, norms=norms)
    network = Small(supernet)
    with torch.no_grad():
        architecture.alpha["boxes"].copy_(maps(*architecture.alpha["boxes"].shape, seed=5))
    alphas = {id(alpha) for alpha in architecture.parameters()}
    learning = [parameter for parameter in network.parameters() if id(parameter) not in alphas]
    weights = torch.optim.SGD(learning, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    return Bilevel(network, architecture, weights, alpha_optimiser(architecture), order=order, **options)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    return maps(2, 3, 7, 7, seed=seed), maps(2, CHANNELS, 5, 5, seed=seed + 100)


def caught(search: Bilevel) -> list[Tensor]:
    """The gradient of alpha with which its optimiser is called; it does not step."""
    found: list[Tensor] = []
    search.alpha.step = lambda: found.extend(  # type: ignore[method-assign, assignment]
        p.grad.clone() for p in search.architecture.parameters() if p.grad is not None
    )
    return found


DIRECTIONS = 3


def directions(alpha: Tensor) -> Tensor:
    return maps(DIRECTIONS, *alpha.shape, seed=11)


def differences(function, alpha: Tensor, distance: float = 1e-5) -> Tensor:
    """Slopes of a function of alpha along some `directions`, by central differences."""
    kept, slopes = alpha.detach().clone(), []
    for direction in directions(alpha):
        sides = []
        for sign in (1, -1):
            alpha.data.copy_(kept + sign * distance * direction)
            sides.append(function().item())
        slopes.append((sides[0] - sides[1]) / (2 * distance))
    alpha.data.copy_(kept)
    return torch.tensor(slopes, dtype=torch.float64)


def slopes(gradient: Tensor) -> Tensor:
    """The same by a gradient."""
    return (directions(gradient) * gradient).flatten(1).sum(dim=1)


def total(network: nn.Module, given, state: dict[str, Tensor] | None = None) -> Tensor:
    return torch.stack(list(functional_call(network, state or {}, given).values())).sum()


def test_first_order_gradient():
    search = made(clip_norm=1e9)
    found = caught(search)
    search.architecture_step(batch(0))
    wanted = differences(lambda: total(search.network, batch(0)), search.architecture.alpha["boxes"])
    torch.testing.assert_close(slopes(found[0]), wanted, rtol=0, atol=1e-8)
    assert wanted.abs().min() > 1e-3


@pytest.mark.parametrize("stepped", [False, True], ids=["fresh", "with momentum"])
@pytest.mark.parametrize("order", ["second", "exact"])
def test_second_order_gradient(order, stepped):
    search = made(order, clip_norm=1e9)
    if stepped:
        search.weights_step(batch(7))
    network, weights = search.network, search.weights
    alpha = search.architecture.alpha["boxes"]

    def after_a_step() -> Tensor:
        """The loss on one batch after SGD's own step on the other: the definition."""
        own = copy.deepcopy(network)
        learning = [p for name, p in own.named_parameters() if not name.endswith("alpha")]
        optimiser = torch.optim.SGD(learning, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
        optimiser.load_state_dict(copy.deepcopy(weights.state_dict()))
        optimiser.zero_grad()
        total(own, batch(1)).backward()
        optimiser.step()
        return total(own, batch(0)).detach()

    found = caught(search)
    search.architecture_step(batch(0), batch(1))
    wanted = differences(after_a_step, alpha)
    first = differences(lambda: total(network, batch(0)), alpha)
    assert (wanted - first).abs().max() > 1e-2 * wanted.abs().max()  # the order matters here
    torch.testing.assert_close(slopes(found[0]), wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(search: Bilevel, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in search.network.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("norms", [NORMS, Norms("bn", "bn")], ids=["gn", "bn"])
@pytest.mark.parametrize("order", ["first", "second", "exact"])
def test_each_changes_in_its_own_step_only(order, norms):
    search = made(order, norms=norms)
    search.network.train()
    for round_ in range(2):
        before = state(search.network)
        search.architecture_step(batch(4 * round_), batch(4 * round_ + 1))
        assert changed(search, before) == {"group.alpha"}
        assert all(p.grad is None and p.requires_grad for p in search.network.parameters())
        before = state(search.network)
        search.weights_step(batch(4 * round_ + 1))
        assert changed(search, before) == set(before) - {"group.alpha"}
        assert all(p.grad is None and p.requires_grad for p in search.network.parameters())
    assert search.iteration == 2


def test_batch_norms_do_the_same_in_both_steps():
    """In the step of alpha too they use the batch's own statistics."""
    one, other = made(), made()
    losses = one.architecture_step(batch(0))
    wanted = other.weights_step(batch(0))
    assert {name: losses[name] for name in ("square", "size")} == {name: wanted[name] for name in ("square", "size")}


def test_first_order_keeps_no_graph_but_that_of_alpha():
    search = made()
    seen = {}
    search.network.backbone.register_forward_hook(lambda *found: seen.update(backbone=found[-1].requires_grad))
    down = search.network.group.cells[0].down
    down[0].register_forward_hook(lambda *found: seen.update(first=found[-1].requires_grad))
    down[2].register_forward_hook(lambda *found: seen.update(node=found[-1].requires_grad))
    gradients = []
    for name, parameter in search.network.named_parameters():
        parameter.register_hook(lambda _, name=name: gradients.append(name))
    search.architecture_step(batch(0))
    assert seen == {"backbone": False, "first": False, "node": True}
    assert gradients == ["group.alpha"]


def test_what_is_frozen_stays_frozen():
    settings = SupernetSettings(operations=("std1", "sep2"), nodes=1)
    supernet, architecture = group(settings)
    network = Small(supernet)
    network.backbone.requires_grad_(False)
    before = state(network.backbone[0])
    learning = [p for p in network.parameters() if p is not supernet.alpha]
    search = Bilevel(network, architecture, torch.optim.SGD(learning, lr=RATE), alpha_optimiser(architecture))
    search.architecture_step(batch(0))
    search.weights_step(batch(1))
    assert not any(p.requires_grad for p in network.backbone.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.backbone[0].state_dict().items())


def test_gradients_are_clipped():
    wild = made(clip_norm=1e-3)
    found = caught(wild)
    values = wild.architecture_step(batch(0))
    assert values["grad_norm"] > 1e-2
    assert float(found[0].norm()) == pytest.approx(1e-3, rel=1e-3)


def test_a_term_of_the_architecture():
    plain, priced = made(clip_norm=1e9), made(clip_norm=1e9, term=lambda a: 2 * a.alpha["boxes"].sum())
    one, other = caught(plain), caught(priced)
    plain.architecture_step(batch(0))
    values = priced.architecture_step(batch(0))
    assert values["cost"] == pytest.approx(2 * priced.architecture.alpha["boxes"].sum().item())
    torch.testing.assert_close(other[0], one[0] + 2)
    assert "cost" not in priced.weights_step(batch(0))


@pytest.mark.parametrize("order", ["first", "second", "exact"])
def test_a_step_that_is_not_finite_changes_nothing(order):
    search = made(order)
    x, y = batch(0)
    before = state(search.network)
    for name, step in (
        ("architecture", lambda: search.architecture_step((x, y * math.nan), batch(1))),
        ("weights", lambda: search.weights_step((x, y * math.inf))),
    ):
        with pytest.raises(TrainingError, match=f"iteration 1, {name} step: square is (nan|inf)") as raised:
            step()
        assert "\n" not in str(raised.value)
        assert all(p.grad is None for p in search.network.parameters())
    running = {name for name in before if "running" in name or "batches" in name}  # seen before the loss
    assert changed(search, before) <= running


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_alpha_that_its_own_step_breaks_is_named_at_once(value):
    """And not first in the weights' step, which would be blamed."""
    search = made()

    def stepped():
        with torch.no_grad():
            search.architecture.alpha["boxes"][1, 0] = value

    search.alpha.step = stepped
    wanted = r"^iteration 1, architecture step: alpha of boxes is not finite; lower alpha_lr$"
    with pytest.raises(TrainingError, match=wanted):
        search.architecture_step(batch(0))


def test_alpha_is_blamed_for_losses_that_it_breaks():
    for name in ("architecture", "weights"):
        search = made()
        with torch.no_grad():
            search.architecture.alpha["boxes"].fill_(math.nan)
        step = search.architecture_step if name == "architecture" else search.weights_step
        wanted = f"iteration 1, {name} step: alpha of boxes is not finite, square is nan, .*; lower alpha_lr$"
        with pytest.raises(TrainingError, match=wanted):
            step(batch(0))


def floats(*seeds):
    return [tuple(tensor.float() for tensor in batch(seed)) for seed in seeds]


def test_second_order_under_bfloat16():
    """The small difference is taken in float32: in bfloat16 it would be made of rounding."""
    gradients, passes = {}, []
    for dtype in (None, torch.bfloat16):
        search = made("second", dtype=dtype, clip_norm=1e9)
        search.network.float()
        search.network.backbone[0].register_forward_hook(lambda *found: passes.append(found[-1].dtype))
        found = caught(search)
        search.architecture_step(*floats(0, 1))
        gradients[dtype] = found[0]
    assert passes == [torch.float32] * 4 + [torch.bfloat16] * 2 + [torch.float32] * 2
    rounded, exact = gradients[torch.bfloat16], gradients[None]
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_a_step_looks_ahead_from_where_it_is():
    """Looking ahead leaves the weights bit by bit, also where the loss there raises."""
    search = made("second")
    before = state(search.network)
    with pytest.raises(RuntimeError):
        search.architecture_step((batch(0)[0], maps(1, 1, 3, 3)), batch(1))
    assert changed(search, before) == set()


def test_looking_ahead_draws_the_same_samples_each_time():
    """The losses of two-stage heads sample regions: a difference of gradients of other samples would be noise."""
    search = made("second")
    draws = []
    search.network.register_forward_pre_hook(lambda *_: draws.append(torch.rand(()).item()))
    torch.manual_seed(0)
    search.architecture_step(batch(0), batch(1))
    first, held_out, right, left = draws
    assert first == right == left != held_out


def test_optimiser_of_alpha():
    options = made().alpha.param_groups[0]
    assert {key: options[key] for key in ("lr", "betas", "weight_decay")} == {
        "lr": 3e-4,
        "betas": (0.5, 0.999),
        "weight_decay": 1e-3,
    }


def test_the_architecture_must_be_the_network_s():
    search = made()
    with pytest.raises(AssertionError, match="must have"):
        Bilevel(copy.deepcopy(search.network), search.architecture, search.weights, search.alpha)


def test_full_space_in_second_order():
    """All operations are differentiable twice."""
    operations = (*SETS["full"], *SETS["darts"])
    search = made("exact", settings=SupernetSettings(operations=operations, sharing="none", nodes=1))
    near = made("second", settings=SupernetSettings(operations=operations, sharing="none", nodes=1))
    exact, difference = caught(search), caught(near)
    search.architecture_step(batch(0), batch(1))
    near.architecture_step(batch(0), batch(1))
    torch.testing.assert_close(difference[0], exact[0], rtol=0, atol=1e-6 * float(exact[0].abs().max()))
