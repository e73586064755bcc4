"""What the sums of several groups say together: the median of the groups, so that one that a liar is in does not lead.

::

    groups' sums ─► per-device means of each ─► median over groups ─► × devices ─► one total, which is read as any sum is

A device has one vote in its group's mean, and a group one in the median. What later arithmetic reads as a sum is made one again. So a
total of one group is that group's sum, and nothing behind this knows how many there were.

    train.fit            the update, entry by entry
    evaluate.scale       mean and scatter of each sensor's logarithm; scatter is that within groups, which says the same of all devices
    evaluate.covariance  correlations and wander, entry by entry, and back to the nearest matrices that are covariances; scatter within groups
    evaluate.curve       counts add up, as far as none has many times what the median of the groups' curves lets expect: rare openings
                         are few in one group, and the median of counts would be none
    evaluate.assess      losses, moments and votes for the threshold by the median; of histograms each quantile, by the median too; examples
                         add up, no group for more than twice as many as the usual; ranges add up, none beyond twice the usual group's

What is known in fewer than half of the groups is taken as not known: a median of the few is a liar's to choose.

Sources: Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning", ICML 2018, arXiv:1803.01498v2 (coordinate-wise
median); Nemirovsky, Yudin, 1983 (median of means); Wilson, Hilferty, 1931, for the median of a variance's estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.rounds.reports import GroupSum
from models.detection.answers import read_curve, square
from models.detection.openings import AGES, LEVELS, Curve, OpeningsSums
from protocol.grids import FEATURE_GRID, RANGE_GRID, SCORE_GRID, SQUARED
from protocol.questions import ASSESS, COVARIANCE, CURVE, FIT, SCALE, AnswerLayout, Kind

__all__ = ["combine"]

Floats = NDArray[np.float64]
Parts = Mapping[str, Floats]

_LARGEST_WEIGHT: Final = 2.0
"""Times the usual number of windows a device that a group counts for: honest groups of four seldom have more."""

_MOST_TIMES: Final = 3.0
"""Times the openings that the median of the groups' curves lets expect: of rare openings honest groups have none or several."""

_MOST_BINS: Final = 8
"""Of `RANGE_GRID`, a factor of two: so much further than that of the usual group a tensor's range may reach. One device could otherwise make
the int8 steps of all others a thousand times as coarse; honest groups of four machines hardly differ by as much."""

_HISTOGRAMS: Final = {
    "candidate_scores": SCORE_GRID.bins,
    "champion_scores": SCORE_GRID.bins,
    "candidate_probe_scores": SCORE_GRID.bins,
    "champion_probe_scores": SCORE_GRID.bins,
    "feature_counts": FEATURE_GRID.bins,
}
"""Of windows, with the bins of each: a group that may count for half of all would refuse every release, or choose what the fleet calls normal."""


def combine(kind: Kind, layout: AnswerLayout, sums: Sequence[GroupSum]) -> Floats:
    """One total, float64 (layout.total,), of the sums of at least one group."""
    if len(sums) == 1:
        return sums[0].total
    groups = [layout.unpack(found.total) for found in sums]
    devices = np.array([len(found.participants) for found in sums], np.float64)
    added: Parts = {name: np.sum([group[name] for group in groups], axis=0) for name in layout.sizes}
    together = {**added, **_BY_KIND[kind](groups, devices)}
    return np.concatenate([together[name] for name in layout.sizes])


def _fit(groups: Sequence[Parts], devices: Floats) -> Parts:
    means = [group["update"] / count for group, count in zip(groups, devices, strict=True)]
    return {"update": devices.sum() * np.median(means, axis=0)}


def _scale(groups: Sequence[Parts], _devices: Floats) -> Parts:
    names = ("scale_devices", "scale_logs", "scale_squares", "scale_uncertainty")
    knowing, logs, squares, uncertainty = (np.array([group[name] for group in groups]) for name in names)
    one = np.maximum(knowing, 1.0)
    mean = _median(logs / one, knowing >= 1)
    within = np.maximum(squares - logs**2 / one, 0.0) / np.maximum(knowing - 1.0, 1.0)
    # The estimate of a variance by k + 1 devices is chi-squared: its median lies below its mean.
    freedom = np.maximum(np.median(knowing, axis=0) - 1.0, 1.0)
    scatter = _median(within, knowing >= 2) / (1.0 - 2.0 / (9.0 * freedom)) ** 3
    is_known = _is_common(knowing >= 1) & _is_common(knowing >= 2)
    count = np.where(is_known, knowing.sum(axis=0), 0.0)
    return {
        "scale_devices": count,
        "scale_logs": count * mean,
        "scale_squares": count * mean**2 + np.maximum(count - 1.0, 0.0) * scatter,
        "scale_uncertainty": count * _median(uncertainty / one, knowing >= 1),
    }


def _covariance(groups: Sequence[Parts], _devices: Floats) -> Parts:
    knowing = np.array([float(group["spread_devices"][0]) for group in groups])
    if not _is_common(knowing >= 2):
        return {name: np.zeros_like(values) for name, values in groups[0].items() if name != "examples"}
    used = [(group, count) for group, count in zip(groups, knowing, strict=True) if count >= 2]
    count = float(sum(held for _, held in used))
    means = {
        name: [group[name] / held for group, held in used]
        for name in ("correlation", "wander", "spread_error")
    }
    correlation = _as_correlation(np.median(means["correlation"], axis=0))
    wander = _as_covariance(np.median(means["wander"], axis=0))
    scatter = np.median(
        [
            (float(group["spread_squares"][0]) - held * _mean_square(group["correlation"] / held))
            / (held - 1.0)
            for group, held in used
        ]
    )
    squares = count * _mean_square(correlation) + (count - 1.0) * max(float(scatter), 0.0)
    return {
        "spread_devices": np.array([count]),
        "correlation": count * correlation,
        "wander": count * wander,
        "spread_squares": np.array([squares]),
        "spread_error": count * np.median(means["spread_error"], axis=0),
    }


def _curve(groups: Sequence[Parts], _devices: Floats) -> Parts:
    read = [read_curve(group) for group in groups]
    parts: dict[str, Floats] = {}
    for age in AGES:
        counted = [found[age] for found in read if age in found]
        made = _one_age(counted) if 2 * len(counted) >= len(groups) and counted else None
        nothing = np.zeros(len(LEVELS))
        parts |= {
            f"age_devices_{age}": np.array([made.devices if made else 0.0]),
            f"age_windows_{age}": np.array([made.windows if made else 0.0]),
            f"openings_{age}": made.openings if made else nothing,
            f"in_alarm_{age}": made.in_alarm if made else nothing,
            f"openings_squares_{age}": made.squares if made else nothing[::SQUARED],
        }
    return parts


def _one_age(counted: Sequence[OpeningsSums]) -> OpeningsSums:
    """Counts add up, as far as no group has many times what the median of the groups' curves lets expect."""
    devices = np.array([group.devices for group in counted])
    windows = _LARGEST_WEIGHT * np.median([group.windows / group.devices for group in counted]) * devices
    weights = np.minimum(windows / np.array([group.windows for group in counted]), 1.0)
    # As if each group were the fleet: a curve of few openings leans on what other machines' tails are like.
    curves = [Curve.of(_times(group, len(counted))) for group in counted]
    usual = np.median([curve.rate for curve in curves], axis=0), np.median([c.share for c in curves], axis=0)
    total, openings, in_alarm = 0.0, np.zeros(len(LEVELS)), np.zeros(len(LEVELS))
    for group, weight in zip(counted, weights, strict=True):
        total += weight * group.windows
        openings += weight * np.minimum(group.openings, _MOST_TIMES * usual[0] * group.windows)
        in_alarm += weight * np.minimum(group.in_alarm, _MOST_TIMES * usual[1] * group.windows)
    # By how much devices of a group differ, beyond chance: E Σ (C − mN)²/N = D·m + m²·ΣN/a (`models.detection.openings`).
    differing = []
    for group in counted:
        seen = group.openings[::SQUARED] / group.windows
        chance = seen**2 * group.windows + (group.devices - 1.0) * seen
        differing.append(np.maximum(group.squares - chance, 0.0) / group.windows)
    known = openings[::SQUARED] / total
    squares = known**2 * total + (devices.sum() - 1.0) * known + total * np.median(differing, axis=0)
    return OpeningsSums(
        devices=float(devices.sum()),
        windows=float(total),
        openings=openings,
        in_alarm=in_alarm,
        squares=squares,
    )


def _times(counts: OpeningsSums, times: int) -> OpeningsSums:
    return OpeningsSums(
        devices=times * counts.devices,
        windows=times * counts.windows,
        openings=times * counts.openings,
        in_alarm=times * counts.in_alarm,
        squares=times * counts.squares,
    )


def _assess(groups: Sequence[Parts], devices: Floats) -> Parts:
    examples = np.array([float(group["examples"][0]) for group in groups])
    usual = float(np.median(examples / devices))
    weights = np.minimum(_LARGEST_WEIGHT * usual * devices / np.maximum(examples, 1.0), 1.0)
    total = float(weights @ examples)
    together: dict[str, Floats] = {"examples": np.array([total])}
    for name in ("candidate_loss", "champion_loss", "feature_sum", "feature_squares"):
        means = [group[name] / max(held, 1.0) for group, held in zip(groups, examples, strict=True)]
        together[name] = total * np.median(means, axis=0)
    for name, bins in _HISTOGRAMS.items():
        together[name] = total * _median_shares([group[name] for group in groups], bins)
    votes = [group["threshold_votes"] for group in groups]
    together["threshold_votes"] = float(np.sum(votes)) * _median_shares(votes, SCORE_GRID.bins)
    together["range_high"] = _within_reach([group["range_high"] for group in groups])
    # The lowest are the highest of what is seen the other way round.
    together["range_low"] = _within_reach([group["range_low"][::-1] for group in groups])[::-1]
    return together


_BY_KIND: Final[Mapping[Kind, Callable[[Sequence[Parts], Floats], Parts]]] = {
    FIT: _fit,
    SCALE: _scale,
    COVARIANCE: _covariance,
    CURVE: _curve,
    ASSESS: _assess,
}


def _median_shares(counts: Sequence[Floats], bins: int) -> Floats:
    """Of histograms one after the other, shares whose each quantile is the median of the groups': a liar may hold all counts of its group."""
    tables = [one.reshape(-1, bins) for one in counts]
    shares = [np.cumsum(one, axis=1) / one.sum(axis=1, keepdims=True) for one in tables if one.sum() > 0]
    if not shares:
        return np.zeros_like(counts[0])
    return np.asarray(np.diff(np.median(shares, axis=0), prepend=0.0, axis=1).ravel())


def _within_reach(counts: Sequence[Floats]) -> Floats:
    """Sum of the groups' counts of highest values, tensor by tensor; what lies too far beyond the usual group's is moved to where it may lie."""
    tables = np.array([one.reshape(-1, RANGE_GRID.bins) for one in counts])
    total: Floats = tables.sum(axis=0)
    for tensor, row in enumerate(total):
        reached = sorted(int(np.flatnonzero(one)[-1]) for one in tables[:, tensor] if one.any())
        if reached:
            last = min(reached[len(reached) // 2] + _MOST_BINS, RANGE_GRID.bins - 1)
            row[last] += row[last + 1 :].sum()
            row[last + 1 :] = 0.0
    return total.ravel()


def _is_common(knows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether at least half of the groups (G, ...) know."""
    return np.asarray(2 * knows.sum(axis=0) >= len(knows))


def _median(values: Floats, knows: NDArray[np.bool_]) -> Floats:
    """Median over the groups (G, F) that know; 0 where none does."""
    columns = zip(values.T, knows.T, strict=True)
    return np.array([np.median(column[mask]) if mask.any() else 0.0 for column, mask in columns])


def _mean_square(triangle: Floats) -> float:
    """Of a symmetric matrix whose upper triangle this is, row by row."""
    return float(np.square(square(triangle)).mean())


def _as_covariance(triangle: Floats) -> Floats:
    """The nearest triangle that is a covariance's: medians of covariances may have slightly negative variances in some direction."""
    matrix = square(triangle)
    values, vectors = np.linalg.eigh(matrix)
    if values[0] >= 0:
        return triangle
    lifted = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return np.asarray(lifted[np.triu_indices(len(lifted))])


def _as_correlation(triangle: Floats) -> Floats:
    """The same with ones on the diagonal."""
    matrix = square(_as_covariance(triangle))
    scale = np.sqrt(np.maximum(np.diagonal(matrix), 1e-12))
    matrix = np.clip(matrix / np.outer(scale, scale), -1.0, 1.0)
    np.fill_diagonal(matrix, 1.0)
    return np.asarray(matrix[np.triu_indices(len(matrix))])
