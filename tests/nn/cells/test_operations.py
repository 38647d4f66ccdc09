"""Operations of edges: shape, receptive field, what they are made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detsearch.arch.cells import OPERATIONS, SETS
from detsearch.nn.cells.operations import build_operation
from detsearch.nn.norms import GroupNorm, Norms

GN, BARE = Norms("bn", "gn"), Norms("bn", None)


@pytest.mark.parametrize("token", OPERATIONS)
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (1, 6)], ids=str)
def test_shape_stays(token: str, size: tuple[int, int]) -> None:
    x = torch.randn(2, 12, *size)
    for norms in (GN, BARE, Norms("gn_ws", "gn_ws")):
        assert build_operation(token, 12, norms)(x).shape == x.shape


@pytest.mark.parametrize("token", OPERATIONS)
def test_a_place_sees_its_receptive_field_and_nothing_more(token: str) -> None:
    """Without norms, which see the whole map. Weights that are positive let nothing cancel."""
    operation = build_operation(token, 2, BARE).double()
    for parameter in operation.parameters():
        nn.init.constant_(parameter, 0.1)
    x = torch.rand(1, 2, 15, 15, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, dtype=torch.float64) + 1
    (operation(x)[0, :, 7, 7] * weights).sum().backward()
    assert isinstance(x.grad, Tensor)
    rows, columns = x.grad[0].abs().sum(0).nonzero(as_tuple=True)
    if token == "max3":  # the gradient is that of the largest alone
        assert (rows - 7).abs().max() <= 1
        assert (columns - 7).abs().max() <= 1
        return
    side = OPERATIONS[token].receptive_field
    for seen in (rows, columns):
        assert seen.min() == 7 - side // 2
        assert seen.max() == 7 + side // 2


@pytest.mark.parametrize("token", SETS["full"])
def test_convolutions_of_a_transformation(token: str) -> None:
    """Standard or depthwise and pointwise; dilated ones are separable in both streams; norm and ReLU behind each."""
    one = OPERATIONS[token]
    found = build_operation(token, 12, GN)
    count = one.convs + bool(one.dilation)
    separable = count if one.stream == "sep" else int(bool(one.dilation))
    convs = [m for m in found.modules() if isinstance(m, nn.Conv2d)]
    depthwise = [conv for conv in convs if conv.groups == 12]
    assert len(depthwise) == separable
    assert len(convs) == count + separable
    assert [conv.dilation[0] for conv in convs if conv.dilation[0] > 1] == ([one.dilation] if one.dilation else [])
    assert sum(isinstance(m, GroupNorm) for m in found.modules()) == count
    assert sum(isinstance(m, nn.ReLU) for m in found.modules()) == count
    assert (found(torch.randn(1, 12, 9, 9)) >= 0).all()


@pytest.mark.parametrize("token", [token for token in OPERATIONS if token not in ("max3", "avg3", "skip")])
def test_every_parameter_gets_a_gradient(token: str) -> None:
    operation = build_operation(token, 12, GN)
    operation(torch.randn(2, 12, 9, 7)).square().sum().backward()
    for name, parameter in operation.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any(), name


@pytest.mark.parametrize("token", [*SETS["full"], "dsep5", "ddil5"])
def test_values_keep_their_variance_without_a_norm(token: str) -> None:
    """He initialisation by inputs, depthwise convolutions by theirs; at the edge of the map zeros come in."""
    torch.manual_seed(0)
    x = torch.randn(1, 64, 48, 48)
    y = build_operation(token, 64, BARE)(x)[..., 9:-9, 9:-9]
    assert 0.2 < y.square().mean() < 4, "after a ReLU half the energy is its mean square"
