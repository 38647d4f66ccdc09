from __future__ import annotations

import numpy as np
import pytest

from detsearch.search.importance import Share, effects, importances


def drawn(rng: np.random.Generator, count: int, values: int) -> list[str]:
    return [str(i) for i in rng.integers(values, size=count)]


def test_by_hand() -> None:
    """Two groups of three: within them a mean square of 1 (4 by 4), among all of 3.5 (17.5 by 5)."""
    figures = {"ap": np.array([0.0, 1, 2, 3, 4, 5])}
    (found,) = importances({"size": list("aaabbb"), "norm": ["bn"] * 6}, figures)
    assert (found.figure, found.trials) == ("ap", 6)
    size = found.shares["size"]
    assert size.values == 2
    assert size.alone is not None
    assert size.alone.mean == pytest.approx(1 - 1 / 3.5)
    assert size.beyond is not None
    assert size.beyond.mean == pytest.approx(1 - 1 / 3.5), "nothing else varies"
    assert found.together is not None
    assert found.together.mean == pytest.approx(1 - 1 / 3.5)
    assert found.shares["norm"] == Share(values=1, reason="the same in all")
    # The jackknife: without each of the six, by hand from the other five.
    without = []
    for left in range(6):
        kept = np.delete(figures["ap"], left)
        groups = [kept[kept < 3], kept[kept >= 3]]
        within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
        without.append(1 - (within / 3) / kept.var(ddof=1))
    pseudo = np.array([6 * (1 - 1 / 3.5) - 5 * value for value in without])
    assert size.alone.half == pytest.approx(2.571 * pseudo.std(ddof=1) / np.sqrt(6))


def test_a_planted_choice_explains_everything_and_the_others_nothing() -> None:
    rng = np.random.default_rng(0)
    sizes = drawn(rng, 120, 4)
    # The neck mostly goes with the size, as in a search that has converged; head and backbone are drawn freely.
    necks = [size if rng.random() < 0.8 else other for size, other in zip(sizes, drawn(rng, 120, 4), strict=True)]
    chosen = {"input": sizes, "neck": necks, "head": drawn(rng, 120, 3), "backbone": drawn(rng, 120, 6)}
    ap = np.array([0.1 * int(size) ** 2 for size in sizes])
    noisy = ap + rng.normal(0, 0.02, size=120)
    clean, real = importances(chosen, {"ap": ap, "noisy": noisy})
    for found, tolerance in ((clean, 1e-9), (real, 0.02)):
        assert found.together is not None
        assert found.together.mean == pytest.approx(1, abs=tolerance)
        shares = {name: share for name, share in found.shares.items() if share.alone and share.beyond}
        assert set(shares) == set(chosen)
        assert shares["input"].alone.mean == pytest.approx(1, abs=tolerance)  # type: ignore[union-attr]
        for name in ("head", "backbone"):
            assert abs(shares[name].alone.mean) < 0.08  # type: ignore[union-attr]
        for name in ("neck", "head", "backbone"):
            assert abs(shares[name].beyond.mean) < max(tolerance, 1e-9)  # type: ignore[union-attr]
        assert shares["neck"].alone.mean > 0.4, "it goes with the size"  # type: ignore[union-attr]
        assert shares["input"].beyond.mean > 0.2  # type: ignore[union-attr]


def test_shares_of_a_balanced_design_add_up() -> None:
    pairs = [(a, b) for a in "01" for b in "01"] * 10
    figures = {"ap": np.array([3.0 * int(a) + int(b) for a, b in pairs])}
    (found,) = importances({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]}, figures)
    alone = [share.alone.mean for share in found.shares.values() if share.alone]
    assert alone == pytest.approx([0.9, 0.1], abs=0.03)
    assert sum(alone) == pytest.approx(1, abs=0.03)


def test_noise_explains_nothing_in_the_mean_however_many_values() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(60):
        (one,) = importances({"a": drawn(rng, 30, 12), "b": drawn(rng, 30, 2)}, {"ap": rng.normal(size=30)})
        found.append([share.alone.mean for share in one.shares.values() if share.alone])
    assert np.abs(np.mean(found, axis=0)).max() < 0.08


def test_intervals_shrink_with_trials_and_hold_the_truth() -> None:
    """Half of the variance is the choice's: its effect is -1 or 1, the noise of variance 1."""
    rng = np.random.default_rng(2)
    halves, held = [], 0
    for count in (40, 400):
        widths = []
        for _ in range(40):
            chosen = drawn(rng, count, 2)
            figures = {"ap": np.array([2.0 * int(value) - 1 for value in chosen]) + rng.normal(size=count)}
            share = importances({"a": chosen}, figures)[0].shares["a"].alone
            assert share is not None
            assert share.half is not None
            widths.append(share.half)
            held += abs(share.mean - 0.5) <= share.half
        halves.append(np.mean(widths))
    assert halves[1] < 0.5 * halves[0]
    assert held >= 0.85 * 80


def test_where_there_is_no_figure_it_says_why() -> None:
    figures = {"ap": np.arange(6.0), "same": np.ones(6)}
    found, same = importances({"each": list("abcdef"), "norm": ["bn"] * 6, "two": list("ababab")}, figures)
    assert found.shares["each"].reason == "6 values in 6 trials are too many to tell apart"
    assert found.shares["norm"].reason == "the same in all"
    assert found.shares["two"].alone is not None
    assert found.shares["two"].beyond == found.shares["two"].alone == found.together
    assert same.shares["two"].reason == "same is the same in all"
    both = {"a": list("abcdabcd"), "b": list("aabbccdd")}
    (one,) = importances(both, {"ap": np.arange(8.0)})
    assert one.together is None, "seven effects in eight trials"
    assert [(share.alone is None, share.beyond) for share in one.shares.values()] == [(False, None)] * 2
    assert importances({"a": ["x"]}, {"ap": np.array([0.5])})[0].together is None


def test_means_of_the_values() -> None:
    chosen = {"size": list("aabbcb"), "norm": ["bn"] * 6, "each": list("uvwxyz")}
    found = effects(chosen, {"ap": np.array([0.1, 0.3, 0.6, 0.8, 0.5, 0.7]), "ms": np.array([1.0, 2, 5, 5, 9, 5])})
    assert list(found) == ["size"], "of others there is nothing to compare"
    assert [(effect.value, effect.trials) for effect in found["size"]] == [("b", 3), ("c", 1), ("a", 2)]
    best, single, worst = found["size"]
    assert best.means["ap"].mean == pytest.approx(0.7)
    assert best.means["ms"].half == 0
    assert worst.means["ap"].half == pytest.approx(12.706 * 0.1)  # two values, 0.1 from their mean
    assert single.means["ap"].half is None
