from __future__ import annotations

import copy

import torch
from torch import nn

from detsearch.training.ema import EMA


def test_follows_its_formula_and_copies_buffers() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    ema = EMA(network, 0.4)
    expected = copy.deepcopy(network[0].weight.detach())
    for n in range(12):
        with torch.no_grad():
            network[0].weight.normal_()
        network(torch.randn(4, 2, dtype=torch.float64))
        ema.update(network)
        d = min(0.4, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * network[0].weight.detach()
    assert d == 0.4, "the case reaches the full decay"
    torch.testing.assert_close(ema.module[0].weight, expected, rtol=1e-12, atol=0)
    assert torch.equal(ema.module[1].running_mean, network[1].running_mean)
    assert ema.module[1].num_batches_tracked == 12


def test_is_a_copy_that_does_not_learn() -> None:
    network = nn.Linear(2, 2)
    ema = EMA(network, 0.9)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    with torch.no_grad():
        network.weight.zero_()
    assert ema.module.weight.abs().sum() > 0
    assert all(parameter.requires_grad for parameter in network.parameters())
