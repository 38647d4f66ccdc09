from __future__ import annotations

from torch import nn

from detsearch.training.optimiser import make_optimiser
from detsearch.training.settings import TrainingSettings


def _network() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    network[2].requires_grad_(False)
    return network


def test_norms_and_biases_may_go_without_decay() -> None:
    network = _network()
    optimiser = make_optimiser(network.parameters(), TrainingSettings(decay_norm_bias=False, weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert decay == {
        id(network[0].weight): 0.1,
        id(network[0].bias): 0.0,
        id(network[1].weight): 0.0,
        id(network[1].bias): 0.0,
    }


def test_by_default_all_decay_alike() -> None:
    optimiser = make_optimiser(_network().parameters(), TrainingSettings())
    assert {group["weight_decay"] for group in optimiser.param_groups} == {1e-4}
    assert {group["momentum"] for group in optimiser.param_groups} == {0.9}
