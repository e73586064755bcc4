"""What this device adds to its fleet's prior: its scale, how its sensors vary together, and how often its detectors would have alarmed.

    evaluate.scale        ScaleEvidence of rows and unit ──────────────► sums of logarithms
    evaluate.covariance   rows in the shrunk scale ────────────────────► correlations, wander
    evaluate.curve        the same, and the others' correlations ──────► openings at each level, for each age

All healthy rows of the snapshot count, in the order of time; nothing is fitted on what it is counted on (`models.detection.openings`),
and a device takes its own part out of the fleet's sums before it counts: what it is judged by must not be itself.

Pure, given rows and questions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.detection.answers import (
    curve_parts,
    read_scale_prior,
    read_spread,
    scale_parts,
    spread_parts,
)
from models.detection.openings import AlarmRules, age_counts
from models.detection.prior import rescaled
from models.detection.scale import ScaleEvidence, ScaleSums
from models.detection.spread import FEWEST_ROWS, Spread, SpreadPrior, SpreadSums
from protocol.questions import CovarianceQuestion, CurveQuestion, ScaleQuestion

__all__ = ["PriorQuestion", "answer_prior"]

_log: Final = logging.getLogger(__name__)

PriorQuestion = ScaleQuestion | CovarianceQuestion | CurveQuestion
Parts = dict[str, NDArray[np.float64]]

_NO_COVARIANCE: Final = -1e-3
"""Float32 on the road leaves an eigenvalue of 0 above this, per device."""


def answer_prior(
    question: PriorQuestion,
    arrays: Mapping[str, NDArray[np.floating]],
    rows: NDArray[np.float32],
    unit: NDArray[np.floating] | None,
) -> Parts:
    """The parts of the answer, which add up over devices.

    Args:
        question: what is asked.
        arrays: what came along.
        rows: all standardised windows of the snapshot (n, F), oldest first.
        unit: what one of them is in each sensor's own units (F,); None where the device has no scale: it adds nothing.

    Raises:
        LayoutError: arrays that are none of this question; `question_checks` has seen to it that they are.
    """
    rows = rows[np.isfinite(rows).all(axis=1)]
    if unit is None or not len(rows):
        # Whoever leaves here may cost the whole cohort its round; zeros add nothing to a sum.
        _log.warning(
            "prior_answer_left_out run=%r: this device has no scale, or no whole window", question.run_id
        )
        rows, unit = np.zeros((1, rows.shape[1]), np.float32), np.full(rows.shape[1], np.inf)
    evidence = ScaleEvidence.of(rows, unit)
    examples = {"examples": np.array([float(len(rows))])}
    if isinstance(question, ScaleQuestion):
        return examples | scale_parts(ScaleSums.of(evidence))
    scaled = rescaled(rows, evidence, unit, read_scale_prior(arrays, rows.shape[1]))[0]
    own = _own_spread(scaled)
    if isinstance(question, CovarianceQuestion):
        return examples | spread_parts(own)
    others = _others(question, arrays, own)
    # Counted in any case: whether sums can have held this device's part depends on its data, and how long an answer takes must not.
    counts = age_counts(scaled, others, AlarmRules())
    if others is None and question.devices > own.devices:
        _log.warning(
            "prior_answer_left_out run=%r: the fleet's sums do not contain this device", question.run_id
        )
        counts = {}
    return examples | curve_parts(counts)


def _own_spread(scaled: NDArray[np.float64]) -> SpreadSums:
    if len(scaled) >= FEWEST_ROWS:
        return SpreadSums.of(Spread.of(scaled))
    nothing = np.zeros((scaled.shape[1], scaled.shape[1]))
    return SpreadSums(devices=0.0, correlation=nothing, wander=nothing, squares=0.0, error=0.0)


def _others(
    question: CurveQuestion, arrays: Mapping[str, NDArray[np.floating]], own: SpreadSums
) -> SpreadPrior | None:
    """What all devices but this one know together; None where there is no other, or the sums cannot have held this one's part."""
    figures = {
        "spread_devices": np.array([question.devices]),
        "spread_squares": np.array([question.squares]),
        "spread_error": np.array([question.error]),
    }
    total = read_spread({**arrays, **figures}, len(own.correlation))
    others = total - own if question.holds_own else total
    if others.devices < 1:
        return None
    prior = SpreadPrior.of(others)
    if min(np.linalg.eigvalsh(one)[0] for one in (prior.correlation, prior.wander)) < _NO_COVARIANCE:
        return None
    return prior
