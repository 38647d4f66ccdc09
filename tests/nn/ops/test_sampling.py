from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from detsearch.nn.ops.sampling import BalancedSampler


@given(
    st.integers(0, 3), st.integers(0, 60), st.integers(1, 20), st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.floats(0, 1), st.integers(0, 2**16),
)  # fmt: skip
def test_numbers(images: int, count: int, samples: int, share: float, density: float, seed: int) -> None:
    """As many positives as the share allows, negatives in place of those that lack, and nothing else."""
    torch.manual_seed(seed)
    kind = torch.rand(images, count)
    positive, negative = kind < density / 2, kind > 1 - density / 2
    chosen, other = BalancedSampler(samples, share)(positive, negative)
    assert chosen.shape == other.shape == (images, count)
    assert not (chosen & ~positive).any()
    assert not (other & ~negative).any()
    wanted = positive.sum(1).clamp(max=int(samples * share))
    assert torch.equal(chosen.sum(1), wanted)
    assert torch.equal(other.sum(1), torch.minimum(negative.sum(1), samples - wanted))


def test_every_candidate_has_the_same_chance() -> None:
    torch.manual_seed(0)
    positive, negative = torch.zeros(4000, 12, dtype=torch.bool), torch.ones(4000, 12, dtype=torch.bool)
    positive[:, :4], negative[:, :4] = True, False
    chosen, other = BalancedSampler(5, 0.4)(positive, negative)
    shares = (chosen | other).float().mean(dim=0)
    torch.testing.assert_close(shares[:4], torch.full((4,), 2 / 4), rtol=0, atol=0.04)
    torch.testing.assert_close(shares[4:], torch.full((8,), 3 / 8), rtol=0, atol=0.04)


def test_chance_comes_from_the_global_generator() -> None:
    candidates = torch.rand(2, 50) < 0.5
    torch.manual_seed(1)
    first = BalancedSampler(8, 0.5)(candidates, ~candidates)
    second = BalancedSampler(8, 0.5)(candidates, ~candidates)
    torch.manual_seed(1)
    again = BalancedSampler(8, 0.5)(candidates, ~candidates)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], second[0])
