"""A Gaussian process over detectors, for few and noisy observations at several fidelities.

The value of detector x after e epochs is ``level_e + scale_e (f(x) + u_x + g(x, e))``: f is what structure tells, alike
for detectors that are alike; u_x is the detector's own, the same at every fidelity; g is how it differs early from late
(a process over structure and, as Ornstein and Uhlenbeck's, over log e). Levels are free, so nothing is assumed of how
values grow with training (compare Kennedy and O'Hagan, "Predicting the output from a complex computer code when fast
approximations are available", Biometrika 2000). Predictions are averaged over hyperparameters that were drawn from
their prior and around the likeliest, always the same draws, so that equal observations give equal predictions.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

LEVEL: Final = 100.0
"""Variance of a fidelity's level: as good as free."""
FIRST: Final = 24
MORE: Final = 12
ROUNDS: Final = 3
"""Hyperparameters that are tried: drawn from the prior, then some around the best, round by round."""
ENOUGH: Final = 80
"""Observations from which they are chosen; predictions rest on all of them."""
KEPT: Final = 6
"""So many, the likeliest, are averaged over."""

REMEMBERED: Final = 16
"""Observations for which the hyperparameters are remembered."""
_REMEMBERED: Final[OrderedDict[bytes, tuple[Array, Array]]] = OrderedDict()
_LOCK: Final = threading.Lock()

_OWN, _LATE, _SLOW, _NOISE, _SPREAD, _RATES = range(6)
"""Places among the hyperparameters, all logarithms: the variance of u; that of g, and its length in log e; the noise;
by how much scales spread beyond what `_scales` says, per log e; then for each group of distances how fast alikeness
falls. The variance of f is 1, times an amplitude for all of them that follows from the rest."""
_CENTRE: Final = (-2.0, -1.5, 0.0, -3.0, 0.0)
_WIDTH: Final = (1.0, 1.0, 0.5, 1.0, 0.2)
_RATE: Final = -0.7
_RATE_WIDTH: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """n values: of which detector, after how many epochs. `distances` (groups, n, n) are those between them."""

    which: Numbers
    epochs: Array
    values: Array
    distances: Array

    def some(self, count: int) -> Self:
        """At most `count` of them: of some detectors, drawn, all that there is."""
        if len(self.values) <= count:
            return self
        numbers = _in_order(self.which)
        sizes = np.bincount(numbers)
        order = np.random.default_rng(len(sizes)).permutation(len(sizes))
        kept = np.flatnonzero(np.isin(numbers, order[np.cumsum(sizes[order]) <= count]))
        return type(self)(
            which=self.which[kept],
            epochs=self.epochs[kept],
            values=self.values[kept],
            distances=self.distances[:, kept[:, None], kept],
        )


def _in_order(which: Numbers) -> Numbers:
    """Detectors numbered by where they come first, so that nothing depends on what a caller calls them."""
    _, first, inverse = np.unique(which, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse])


def predict(seen: Observations, distances: Array, which: Sequence[int], epochs: float) -> tuple[Array, Array]:
    """Means and standard deviations, (q,) each, of q detectors' values after `epochs`, noise of measuring left out.

    `distances` (groups, q, n) are those to what was seen, whose numbers (`Observations.which`) `which` shares. At least
    one observation must be of `epochs`.
    """
    scales = _scales(seen)
    thetas, posterior = _search(seen.some(ENOUGH), scales)
    best = np.argsort(-posterior, kind="stable")[:KEPT]
    weights = np.exp(posterior[best] - posterior[best[0]])
    weights = weights / weights.sum()
    among = _Geometry.of(seen.distances, seen.which, seen.which, seen.epochs, seen.epochs)
    across = _Geometry.of(distances, np.asarray(which), seen.which, np.full(len(which), epochs), seen.epochs)
    means, variances = np.empty((2, len(best), len(which)))
    for index, theta in enumerate(thetas[best]):
        scale = _stretched(scales, seen.epochs, theta)
        top = float(_stretched(scales, np.array([epochs]), theta)[0])
        values = seen.values / scale
        inverse = np.linalg.inv(among.covariance(theta) + np.eye(len(values)) * np.exp(theta[_NOISE]))
        near = across.covariance(theta)
        alone = 1 + np.exp(theta[_OWN]) + np.exp(theta[_LATE]) + LEVEL
        left = alone - ((near @ inverse) * near).sum(axis=1)
        amplitude = _amplitude(float(values @ inverse @ values), len(values))
        means[index] = near @ (inverse @ values) * top
        variances[index] = amplitude * np.maximum(left, 1e-9) * top**2
    mean = weights @ means
    return mean, np.sqrt(weights @ (variances + (means - mean) ** 2))


@dataclass(frozen=True, slots=True)
class _Geometry:
    """How a values lie to b others: distances of structure (groups, a b); the few |log e - log e'| that there are, and
    which (a b,) each pair has; the pairs of the same detector; and (a b,) what a common level adds."""

    shape: tuple[int, int]
    distances: Array
    gaps: Array
    gap: Numbers
    same: Numbers
    level: Array

    @classmethod
    def of(cls, distances: Array, which: Numbers, others: Numbers, epochs: Array, other_epochs: Array) -> Self:
        gaps, gap = np.unique(np.abs(np.log(epochs[:, None] / other_epochs)), return_inverse=True)
        return cls(
            shape=(len(which), len(others)),
            distances=distances.reshape(len(distances), -1),
            gaps=gaps,
            gap=gap.ravel(),
            same=np.flatnonzero(which[:, None] == others),
            level=LEVEL * (epochs[:, None] == other_epochs).ravel(),
        )

    def covariance(self, theta: Array) -> Array:
        """(..., a, b), without noise, for hyperparameters (..., h). Most of a search's time is spent here, so large
        arrays are changed in place and exponentials taken once for each gap."""
        found = -np.exp(theta[..., _RATES:]) @ self.distances
        np.exp(found, out=found)
        late = np.exp(theta[..., _LATE, None] - self.gaps * np.exp(-theta[..., _SLOW, None]))
        found *= (1 + late)[..., self.gap] if len(self.gaps) > 1 else 1 + late
        found += self.level
        found[..., self.same] += np.exp(theta[..., _OWN, None])
        return np.asarray(found.reshape(*theta.shape[:-1], *self.shape))


def _search(seen: Observations, scales: dict[float, float]) -> tuple[Array, Array]:
    """Hyperparameters that were tried, a row each, and the logarithm of their posterior. Remembered for the last few
    observations: costs often stay the same from one proposal to the next."""
    told = (_in_order(seen.which), seen.epochs, seen.values, seen.distances, np.array(list(scales.items())))
    key = hashlib.blake2b(b"".join(np.ascontiguousarray(part).tobytes() for part in told)).digest()
    with _LOCK:
        if key in _REMEMBERED:
            _REMEMBERED.move_to_end(key)
            return _REMEMBERED[key]
    found = _tried(seen, scales)
    with _LOCK:
        _REMEMBERED[key] = found
        while len(_REMEMBERED) > REMEMBERED:
            _REMEMBERED.popitem(last=False)
    return found


def _tried(seen: Observations, scales: dict[float, float]) -> tuple[Array, Array]:
    """What `_search` gives."""
    rng = np.random.default_rng(0)
    varied = np.asarray(seen.distances.any(axis=(1, 2)))
    several = len(scales) > 1
    centre = np.concatenate([_CENTRE, np.full(len(varied), _RATE)])
    width = np.concatenate([_WIDTH, _RATE_WIDTH * varied])
    width[[_LATE, _SLOW, _SPREAD]] *= several
    among = _Geometry.of(seen.distances, seen.which, seen.which, seen.epochs, seen.epochs)
    count = len(seen.values)

    def posterior(thetas: Array) -> Array:
        stretched = _stretched(scales, seen.epochs, thetas)
        values, noise = seen.values / stretched, np.exp(thetas[:, _NOISE])
        # With the values as one more row the factor's last one is the whitened values, without solving for them. Its
        # own corner only has to be large enough, and is: no eigenvalue is below the noise.
        bordered = np.zeros((len(thetas), count + 1, count + 1))
        bordered[:, :count, :count] = among.covariance(thetas)
        bordered[:, range(count), range(count)] += noise[:, None]
        bordered[:, count, :count] = values
        bordered[:, count, count] = 1 + 2 * (values**2).sum(axis=1) / noise
        lower = np.linalg.cholesky(bordered)
        amplitudes = _amplitude((lower[:, count, :count] ** 2).sum(axis=1), count)
        diagonal = np.diagonal(lower, axis1=1, axis2=2)[:, :count]
        volume = np.log(diagonal).sum(axis=1) + np.log(stretched).sum(axis=1)
        prior = (((thetas - centre) / np.where(width > 0, width, 1)) ** 2).sum(axis=1)
        return np.asarray(-0.5 * (count + 2) * np.log(amplitudes) - volume - 0.5 * prior)

    thetas = centre + width * rng.standard_normal((FIRST, len(centre)))
    thetas[0] = centre
    found = posterior(thetas)
    for step in range(ROUNDS):
        more = thetas[np.argmax(found)] + 0.5 * 0.6**step * width * rng.standard_normal((MORE, len(centre)))
        thetas, found = np.concatenate([thetas, more]), np.concatenate([found, posterior(more)])
    return thetas, found


def _amplitude(squares: Any, count: int) -> Any:
    """Its likeliest value, held near 1 by as much as two observations would."""
    return (squares + 2) / (count + 2)


def _stretched(scales: dict[float, float], epochs: Array, theta: Array) -> Array:
    """(..., n), the scale of each value, given by how many epochs it took, for hyperparameters (..., h)."""
    last = max(scales)
    return np.asarray([scales[e] for e in epochs] * (epochs / last) ** theta[..., _SPREAD, None])


def _scales(seen: Observations) -> dict[float, float]:
    """By how much values differ after how many epochs. Of those that went on the better ones did, whose spread says
    little, so a later scale follows from the earlier one by how much the same detectors grew, as figures that begin
    at zero do; closer on recorded tables than the ratio of spreads."""
    found: dict[float, float] = {}
    before: dict[int, float] = {}
    last = 1.0
    for epochs in np.unique(seen.epochs):
        at = seen.epochs == epochs
        now = dict(zip(seen.which[at].tolist(), seen.values[at].tolist(), strict=True))
        both = [which for which in now if which in before]
        first = sum(before[which] for which in both)
        if first != 0 and (grown := sum(now[which] for which in both) / first) > 0:
            last *= min(max(grown, 0.2), 20.0)
        else:
            last = float(np.std(seen.values[at])) or abs(float(seen.values[at][0])) or 1.0
        found[float(epochs)] = last
        before = now
    return found
