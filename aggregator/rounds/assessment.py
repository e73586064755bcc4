"""What the fleet's summed answers to ``evaluate.assess`` say: losses, threshold, int8 ranges, reference statistics.

::

    sum over devices ─► Assessment ─┬─► losses, alarm rate  ─► aggregator.rounds.gate
                                    ├─► threshold           ─► manifest
                                    ├─► tensor ranges       ─► int8 quantisation
                                    └─► feature statistics  ─► reference.json

Pure, and nothing but sums goes in: no value in here belongs to one device, and the secure sum can stand before it.
All quantiles are read off the shared grids of `protocol.grids`, whose resolution bounds their error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from aggregator.errors import SumError
from models.drift.reference import DriftReference
from models.standardiser import CLIP
from protocol.grids import FEATURE_GRID, RANGE_GRID, SCORE_GRID
from protocol.manifest import ThresholdSpec
from protocol.questions import assess_layout

__all__ = [
    "Assessment",
    "ThresholdSettings",
    "alarm_rate",
    "fit_threshold",
    "read_assessment",
    "reference_from_sums",
    "tensor_ranges",
]

REFERENCE_QUANTILES = np.arange(1, 10) / 10
_SMALLEST_STD = 1e-3

OUTLYING_SHARE: Final = 0.06
"""Devices whose extremes int8 need not hold. On 17 bearings and 100 shares of digits the squared error falls by 4 to 16 %, a
little more at twice this share, and rises again beyond it on the bearings (`python benchmarks/quantization.py ranges`)."""


RANGE_MARGIN: Final = 1.5
"""int8 ranges are so much wider than what was seen. Machines differ, and healthy windows of one that is a little livelier than those
that were seen must not saturate: a saturated output is an error that looks like an anomaly. On generated machines that differ (tests/
aggregator/test_int8_ranges.py) the float average precision of .909 is .630 in int8 without a margin, and .904 with this one. Where all
machines were seen, it only costs: on 17 bearings the squared error is .0032 instead of .0017, 2 gives .0055 and 3 .012; AUC falls by
.009 ± .011 (`python benchmarks/quantization.py ranges`)."""


CONTENT_SHARE: Final = 0.75
"""Of the devices, whose votes are at most the threshold: a quarter of them may lie, and the others keep one of their own."""

MOST_MOVED: Final = 1.5
"""Times the champion's threshold, or a part of it: further away no release goes, whatever the devices say. Liars who are more than a
quarter reach it, and no more (`python benchmarks/poisoning.py`)."""


class ThresholdSettings(Struct, frozen=True, kw_only=True):
    """``[family.threshold]``: the alarm threshold is what three of four devices need, each the quantile of its own scores, times a margin.

    A device votes by the quantile of the release that it runs; another takes effect with the release after the next.

    `personal_minimum` is how far below it a device may go, as a share of it, where its own healthy scores are lower. At 1, the default, it
    may only go above: a few hundred quiet windows do not show that a tail is short (docs/learning.md has the figures).
    """

    quantile: Annotated[float, Meta(gt=0, lt=1)] = 0.999
    margin: Annotated[float, Meta(gt=0, le=100)] = 1.1
    personal_minimum: Annotated[float, Meta(ge=1e-3, le=1)] = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Assessment:
    """The evaluation of a cohort.

    Losses are means per held-out window. Histograms count held-out windows per SCORE_GRID bin, and `*_probe_scores` the held-out ones
    slightly disturbed. `threshold_votes` counts devices by their own healthy quantile; `range_low`, `range_high` count
    devices, shape (tensors, RANGE_GRID bins); `feature_counts` counts windows, shape (features, FEATURE_GRID bins);
    `feature_sum`, `feature_squares` have shape (features,).
    """

    examples: int
    candidate_loss: float
    champion_loss: float
    candidate_scores: NDArray[np.float64]
    champion_scores: NDArray[np.float64]
    candidate_probe_scores: NDArray[np.float64]
    champion_probe_scores: NDArray[np.float64]
    threshold_votes: NDArray[np.float64]
    range_low: NDArray[np.float64]
    range_high: NDArray[np.float64]
    feature_counts: NDArray[np.float64]
    feature_sum: NDArray[np.float64]
    feature_squares: NDArray[np.float64]


def read_assessment(total: NDArray[np.floating], *, tensors: int, features: int) -> Assessment:
    """Name the parts of a cohort's sum, shape (assess_layout(tensors, features).total,).

    Raises:
        SumError: no device held a window out, or the sum is not finite; the run cannot go on with this cohort.
    """
    parts = assess_layout(tensors, features).unpack(np.asarray(total))
    n = float(parts["examples"][0])
    if not np.isfinite(total).all() or n <= 0:
        raise SumError(
            f"the evaluation counts {n:g} held-out windows; at least one, and finite sums, are needed"
        )
    return Assessment(
        examples=round(n),
        candidate_loss=float(parts["candidate_loss"][0]) / n,
        champion_loss=float(parts["champion_loss"][0]) / n,
        candidate_scores=parts["candidate_scores"],
        champion_scores=parts["champion_scores"],
        candidate_probe_scores=parts["candidate_probe_scores"],
        champion_probe_scores=parts["champion_probe_scores"],
        threshold_votes=parts["threshold_votes"],
        range_low=parts["range_low"].reshape(tensors, RANGE_GRID.bins),
        range_high=parts["range_high"].reshape(tensors, RANGE_GRID.bins),
        feature_counts=parts["feature_counts"].reshape(features, FEATURE_GRID.bins),
        feature_sum=parts["feature_sum"],
        feature_squares=parts["feature_squares"],
    )


def fit_threshold(
    assessment: Assessment, settings: ThresholdSettings, champion: ThresholdSpec | None = None
) -> ThresholdSpec:
    """The alarm threshold of the candidate: what three of four devices need at most, in reach of the `champion`'s.

    A device has one vote, the quantile of its own healthy scores. In a histogram of all windows one device decides over the tail, and a
    liar among them makes all others deaf. Where no vote stands out of the noise, the champion's threshold goes on.

    Raises:
        SumError: nobody voted, and there is no champion.
    """
    votes = assessment.threshold_votes
    fitted_on = round(float(votes.sum()))
    if fitted_on < 1 and champion is None:
        raise SumError("no device voted for a threshold; it cannot be fitted")
    score = (
        SCORE_GRID.quantile(votes, CONTENT_SHARE) * settings.margin
        if fitted_on >= 1 or champion is None
        else champion.score
    )
    if champion is not None:
        score = min(max(score, champion.score / MOST_MOVED), champion.score * MOST_MOVED)
    return ThresholdSpec(
        score=score,
        quantile=settings.quantile,
        margin=settings.margin,
        fitted_on=fitted_on,
        personal_minimum=settings.personal_minimum,
    )


def alarm_rate(counts: NDArray[np.floating], threshold: float) -> float:
    """Share of the counted scores above `threshold`, in [0, 1].

    The bin that holds the threshold is split linearly; a share of an empty histogram is 0.

    >>> counts = SCORE_GRID.count(np.array([0.1, 0.2, 5.0, 7.0]))
    >>> alarm_rate(counts, 1.0)
    0.5
    """
    total = float(np.sum(counts))
    if total <= 0:
        return 0.0
    edges = SCORE_GRID.edges
    b = int(np.searchsorted(edges, threshold, side="left"))
    above = float(np.sum(counts[b + 1 :]))
    if 0 < b < len(edges):
        above += float(counts[b]) * float((edges[b] - threshold) / (edges[b] - edges[b - 1]))
    elif b == 0:
        above += float(counts[0])
    return min(max(above / total, 0.0), 1.0)


def tensor_ranges(
    assessment: Assessment, outlying_share: float = OUTLYING_SHARE, margin: float = RANGE_MARGIN
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(low, high), each (tensors,), that enclose `margin` times what the devices of the cohort saw in each activation tensor.

    All but the outermost `outlying_share` of them at either end: a range that one device alone needs, or claims, makes the int8
    steps of all of them coarser. Of fewer than 17 devices none is left out by default. A margin of 1 gives what was seen. The input
    never leaves the standardised range.

    Raises:
        SumError: no device reported a range for a tensor; names it.
    """
    bounds = []
    for tensor, (low, high) in enumerate(zip(assessment.range_low, assessment.range_high, strict=True)):
        try:
            inner_low = _without_outermost(low, outlying_share)
            inner_high = _without_outermost(high[::-1], outlying_share)[::-1]
            bounds.append(RANGE_GRID.outer_bounds(inner_low, inner_high))
        except ValueError as error:
            raise SumError(f"activation tensor {tensor} cannot be quantised: {error}") from None
    lows, highs = (np.array(side, np.float32) for side in zip(*bounds, strict=True))
    # Zero is in every int8 range, so an end on the wrong side of it is not widened but never used.
    lows, highs = np.where(lows < 0, margin * lows, lows), np.where(highs > 0, margin * highs, highs)
    lows[0], highs[0] = max(lows[0], -CLIP), min(highs[0], CLIP)
    return lows, highs


def _without_outermost(counts: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Counts without the first bins that together hold no more than this share of the devices."""
    return np.where(np.cumsum(counts) <= np.floor(share * counts.sum()), 0.0, counts)


def reference_from_sums(assessment: Assessment) -> DriftReference:
    """The fleet's reference: mean, std and 9 inner decile edges per feature, mean and std of the candidate's score.

    Raises:
        SumError: no reference can be made of these sums: a feature that nobody counted, or a figure that is not finite.
    """
    n = float(assessment.examples)
    mean = assessment.feature_sum / n
    std = np.sqrt(np.maximum(assessment.feature_squares / n - mean**2, _SMALLEST_STD**2))
    try:
        return DriftReference(
            edges=tuple(
                _decile_edges(counts, scale)
                for counts, scale in zip(assessment.feature_counts, std.tolist(), strict=True)
            ),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            score_mean=assessment.candidate_loss,
            score_std=_score_std(assessment),
            fitted_on=assessment.examples,
        )
    except ValueError as error:
        raise SumError(f"these sums give no reference for the fleet: {error}") from None


def _decile_edges(counts: NDArray[np.float64], std: float) -> tuple[float, ...]:
    # Equal deciles (a feature with few distinct values) are parted by a hair: edges must ascend strictly.
    deciles = np.array([FEATURE_GRID.quantile(counts, float(q)) for q in REFERENCE_QUANTILES])
    hair = 1e-6 * std * np.arange(len(deciles))
    return tuple((np.maximum.accumulate(deciles) + hair).tolist())


def _score_std(assessment: Assessment) -> float:
    edges = SCORE_GRID.edges
    centres = np.concatenate([edges[:1], np.sqrt(edges[:-1] * edges[1:]), edges[-1:]])
    counts = assessment.candidate_scores
    mean = float(counts @ centres) / max(float(counts.sum()), 1.0)
    variance = float(counts @ (centres - mean) ** 2) / max(float(counts.sum()), 1.0)
    return max(float(np.sqrt(variance)), 1e-6 * max(assessment.candidate_loss, 1e-6))
