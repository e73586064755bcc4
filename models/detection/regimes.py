"""Several ways in which one machine is healthy: idle, half load, full load. One device's own, and never shared.

    rows ─► principal components ─► mixture of Student t (ν = 5), one shape for all ─► a centre for each regime
    row − centre of the nearest ─► judged, watched for drift, counted as an opening

Most machines have one regime, and k = 1 is what is assumed. One more is believed where contiguous fifths that the mixture has not
seen become more likely by more than twice the standard error and by .01 nats a sensor; where each regime is visited three
times, holds one window in twenty, and lies three deviations from the next, with windows that say which is theirs.
A regime that fails is dropped, not all of them. Heavy tails alone, or one long excursion, are no regime: visits say so.

Regimes share the shape of their spread: a scale for each was worse, and a machine's rarest regime has the fewest windows to tell.

Source: D. Peel and G. J. McLachlan, "Robust mixture modelling using the t distribution", Statistics and Computing 10 (2000).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.detection.experts import FOLDS

__all__ = ["Regimes", "fit_regimes"]

Float = NDArray[np.float32]
Floats = NDArray[np.float64]
Places = NDArray[np.intp]

_FEWEST_VISITS: Final = 3
_VISIT_WINDOWS: Final = 3
"""What is shorter is an excursion."""
_MOST_REGIMES: Final = 6
_MOST_COMPONENTS: Final = 8
_EXPLAINED: Final = 0.9
_FREEDOM: Final = 5.0
_LEAST_GAIN: Final = 0.01
_CERTAIN_ERRORS: Final = 2.0
_SEPARATION: Final = 9.0
_UNCERTAINTY: Final = 0.05
_LEAST_SHARE: Final = 0.05
_FEWEST_WINDOWS: Final = 20
_ROUNDS: Final = 40
_MOST_FITTED: Final = 1024
"""Windows, evenly spread, that a mixture is fitted on: its centres are then known within a tenth of a deviation."""
_TRIED_BEYOND: Final = 2
"""Three may be plain where two are not; where neither is, there is one."""
_SMALLEST: Final = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Regimes:
    """Two or more healthy `centres` (k, F); a row belongs to the nearest of `places` (k, q) after `projection` (q, F)."""

    centres: Float
    projection: Float
    places: Float

    def nearest(self, row: Float) -> int:
        """Which regime a row (F,) is of."""
        offsets = self.places - self.projection @ row
        return int(np.einsum("kq,kq->k", offsets, offsets).argmin())

    def nearest_of(self, rows: Float) -> Places:
        """Which regimes rows (n, F) are of, (n,)."""
        offsets = (rows @ self.projection.T)[:, None, :] - self.places
        return np.asarray(np.square(offsets).sum(axis=2).argmin(axis=1))

    def held_out(self, rows: Float) -> Float:
        """For each of the rows (n, F) that these were fitted on its regime's centre without that fifth of the windows (n, F)."""
        nearest, parts = self.nearest_of(rows), np.array_split(np.arange(len(rows)), FOLDS)
        centres = np.empty_like(rows)
        for part in parts:
            for regime in np.unique(nearest[part]).tolist():
                others = nearest == regime
                others[part] = False
                meant = part[nearest[part] == regime]
                centres[meant] = rows[others].mean(axis=0) if others.any() else self.centres[regime]
        return centres


class _Mixture(NamedTuple):
    """In whitened components: `places` (k, q), `shares` (k,), and the root of the common precision (q, q)."""

    places: Floats
    shares: Floats
    root: Floats


def fit_regimes(rows: NDArray[np.floating], *, is_vouched: bool = False) -> Regimes | None:
    """The regimes of healthy rows (n, F) in the order of time; None for one, as nearly always.

    Args:
        rows: standardised.
        is_vouched: a person says that all of this is normal; one visit to a regime is enough then, however small its share.
    """
    x = np.asarray(rows, np.float64)
    if len(x) < 2 * FOLDS * _FEWEST_WINDOWS:
        return None
    projection = _components(x)
    y = (x - x.mean(axis=0)) @ projection.T
    # Of what was visited once, a fifth in the order of time knows nothing; a person does.
    numbers = np.arange(len(y))
    fifths = [numbers[i::FOLDS] for i in range(FOLDS)] if is_vouched else np.array_split(numbers, FOLDS)
    best: _Mixture | None = None
    likelihood = _held_out(y, fifths, 1)
    count = 1
    for k in range(2, _MOST_REGIMES + 1):
        candidate = _sound(y, k, is_vouched=is_vouched)
        found = len(candidate.places)
        if found <= count:
            if k - count >= _TRIED_BEYOND:
                break
            continue
        gain = _held_out(y, fifths, found) - likelihood
        error = gain.std(ddof=1) / np.sqrt(FOLDS)
        if gain.mean() > max(_CERTAIN_ERRORS * error, _LEAST_GAIN * x.shape[1]):
            best, count, likelihood = candidate, found, likelihood + gain
    if best is None:
        return None
    nearest = _responsibilities(y, best).argmax(axis=1)
    root = best.root @ projection
    return Regimes(
        centres=np.stack([x[nearest == j].mean(axis=0) for j in range(count)]).astype(np.float32),
        projection=root.astype(np.float32),
        places=(best.places @ best.root.T + root @ x.mean(axis=0)).astype(np.float32),
    )


def _components(x: Floats) -> Floats:
    """The directions (q, F) of nine tenths of the variance, eight at most."""
    values, vectors = np.linalg.eigh(np.cov(x.T).reshape(x.shape[1], -1))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    explained = np.cumsum(values) / max(values.sum(), _SMALLEST)
    count = min(int(np.searchsorted(explained, _EXPLAINED)) + 1, _MOST_COMPONENTS, len(values))
    return np.asarray(vectors[:, :count].T)


def _sound(y: Floats, k: int, *, is_vouched: bool) -> _Mixture:
    """At most k regimes of rows (n, q), each of which is one; the worst offender goes, and the others are fitted anew."""
    mixture = _fit(y, k)
    while len(mixture.places) > 1:
        offender = _offender(y, mixture, is_vouched=is_vouched)
        if offender is None:
            break
        mixture = _iterated(y, np.delete(mixture.places, offender, axis=0))
    return mixture


def _offender(y: Floats, mixture: _Mixture, *, is_vouched: bool) -> int | None:
    """The regime that is none, if there is one."""
    posterior = _responsibilities(y, mixture)
    nearest = posterior.argmax(axis=1)
    counts = np.bincount(nearest, minlength=len(mixture.places))
    least = 0.0 if is_vouched else _LEAST_SHARE
    if counts.min() < max(least * len(y), _FEWEST_WINDOWS):
        return int(counts.argmin())
    visits = _visits(nearest, len(counts))
    if visits.min() < (1 if is_vouched else _FEWEST_VISITS):
        return int(visits.argmin())
    whitened = mixture.places @ mixture.root.T
    apart = np.square(whitened[:, None] - whitened).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    doubt = np.array([1 - posterior[nearest == j, j].mean() for j in range(len(counts))])
    if apart.min() < _SEPARATION:
        return int(min(np.unravel_index(int(apart.argmin()), apart.shape), key=lambda j: counts[j]))
    return int(doubt.argmax()) if doubt.max() > _UNCERTAINTY else None


def _visits(nearest: Places, k: int) -> Places:
    """How often (k,) the machine came to each regime and stayed for three windows."""
    starts = np.flatnonzero(np.diff(nearest, prepend=-1))
    lengths = np.diff(np.append(starts, len(nearest)))
    return np.bincount(nearest[starts][lengths >= _VISIT_WINDOWS], minlength=k)


def _held_out(y: Floats, fifths: list[Places], k: int) -> Floats:
    """Mean log likelihood a window of each fifth by k regimes of the others (5,)."""
    return np.array([_log_density(y[fifth], _fit(np.delete(y, fifth, axis=0), k)).mean() for fifth in fifths])


def _fit(y: Floats, k: int) -> _Mixture:
    """So many regimes of rows (n, q), begun where windows are furthest from those before; nothing is random."""
    y = y[:: 1 + len(y) // _MOST_FITTED]
    scale = np.maximum(y.std(axis=0), _SMALLEST)
    far, places = y / scale, [np.median(y, axis=0)]
    for _ in range(k - 1):
        distance = np.min([np.square(far - place / scale).sum(axis=1) for place in places], axis=0)
        # Not the furthest, which may be a glitch: the middle of the furthest tenth, from where most of it is.
        furthest = y[distance >= np.quantile(distance, 0.9)]
        middle = furthest[np.abs(furthest @ _leading(furthest)).argmax()]
        near = np.square((furthest - middle) / scale).sum(axis=1)
        places.append(furthest[near <= np.median(near)].mean(axis=0))
    return _iterated(y, np.array(places))


def _leading(rows: Floats) -> Floats:
    return np.asarray(np.linalg.eigh(rows.T @ rows)[1][:, -1])


def _iterated(y: Floats, places: Floats) -> _Mixture:
    y = y[:: 1 + len(y) // _MOST_FITTED]
    n, q = y.shape
    k = len(places)
    mixture = _Mixture(places, np.full(k, 1 / k), _root(np.cov(y.T).reshape(q, q) / (1 if k == 1 else 4)))
    for _ in range(_ROUNDS):
        distance = _distances(y, mixture)
        posterior = _posterior(distance, mixture.shares, q)
        weight = posterior * (_FREEDOM + q) / (_FREEDOM + distance)
        moved = (weight.T @ y) / np.maximum(weight.sum(axis=0), _SMALLEST)[:, None]
        spread = np.zeros((q, q))
        for j in range(k):
            offset = y - moved[j]
            spread += (weight[:, j, None] * offset).T @ offset
        change = np.abs(moved - mixture.places).max()
        mixture = _Mixture(moved, np.maximum(posterior.mean(axis=0), _SMALLEST), _root(spread / n))
        if change < 1e-4 * np.sqrt(np.trace(spread) / n):
            break
    return mixture


def _root(spread: Floats) -> Floats:
    """R with R′R the precision."""
    values, vectors = np.linalg.eigh(spread)
    values = np.maximum(values, _SMALLEST * max(float(values[-1]), _SMALLEST))
    return np.asarray((vectors / np.sqrt(values)).T)


def _distances(y: Floats, mixture: _Mixture) -> Floats:
    offsets = (y[:, None, :] - mixture.places) @ mixture.root.T
    return np.asarray(np.square(offsets).sum(axis=2))


def _log_shares(distance: Floats, shares: Floats, q: int) -> Floats:
    return np.asarray(np.log(shares) - (_FREEDOM + q) / 2 * np.log1p(distance / _FREEDOM))


def _posterior(distance: Floats, shares: Floats, q: int) -> Floats:
    logs = _log_shares(distance, shares, q)
    logs -= logs.max(axis=1, keepdims=True)
    weights = np.exp(logs)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _responsibilities(y: Floats, mixture: _Mixture) -> Floats:
    return _posterior(_distances(y, mixture), mixture.shares, y.shape[1])


def _log_density(y: Floats, mixture: _Mixture) -> Floats:
    """Up to a constant that all k share."""
    q = y.shape[1]
    logs = _log_shares(_distances(y, mixture), mixture.shares, q)
    top = logs.max(axis=1)
    determinant = float(np.linalg.slogdet(mixture.root)[1])
    return np.asarray(top + np.log(np.exp(logs - top[:, None]).sum(axis=1)) + determinant)
