"""What is checked of a question before this device's data are touched: a closed list of kinds, exact arrays, and how far they may go.

::

    layout, profile ─► those of the approved release            PROFILE
    arrays          ─► exactly the kind's, each of its length   ARRAYS
    parameters      ─► |w| ≤ 32, within the trust radius        ARRAYS     further away a unit answers for one window alone
    a fleet's prior ─► a scale, a covariance that is one        ARRAYS     else one sensor, or one direction, is all that counts

Whether a check passes follows from the question and the approved release alone, so a refusal says nothing about the data. What passes
is hardly ever far enough from a sane model to overflow; where it does, the answer is zeros under the same masks (`sum_participant`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import QuestionRefusedError
from edge_agent.learner.anchor import Anchor
from models.detection.answers import read_scale_prior, read_spread
from models.errors import LayoutError
from protocol.questions import (
    AssessQuestion,
    CovarianceQuestion,
    CurveQuestion,
    FitQuestion,
    Question,
    ScaleQuestion,
)
from protocol.refusals import RefusalCode
from protocol.secure_answers import WANDER_LIMIT
from protocol.secure_sum.messages import MAX_COHORT

__all__ = ["LARGEST_ASKED", "check_question"]

Arrays = Mapping[str, NDArray[np.float32]]

LARGEST_ASKED: Final = 32.0
"""Largest parameter a device is shown. Models that learn keep theirs below ten; 1e18 makes a score overflow for one window alone."""

_FREEDOM: Final = (0.49, 2001.0)
"""Bounds of a known sensor's, float32's rounding included (`models.detection.scale`); 0 is a sensor that nobody knows."""

_ROUNDING: Final = 2e-3
"""Per device: what float32 and fixed point leave of a diagonal of 1, and of an eigenvalue of 0."""

_PRIOR: Final = frozenset({"scale_log_variance", "scale_freedom"})
_SPREAD: Final = _PRIOR | {"correlation", "wander"}


def check_question(question: Question, arrays: Arrays, anchor: Anchor, *, features: int) -> None:
    """Pass if this device answers such a question, whatever its data are.

    Args:
        question: what is asked.
        arrays: what came along, flat float32.
        anchor: the approved release.
        features: width F of a window.

    Raises:
        QuestionRefusedError: PROFILE or ARRAYS; its words are for this device's own log.
    """
    profile = anchor.profile
    if profile is None or profile.trust_radius is None or profile.update_norm is None:
        raise QuestionRefusedError(
            RefusalCode.PROFILE, f"{anchor.release} carries no training profile: nothing is asked about it"
        )
    for what, asked, own in (
        ("layout", question.layout_sha256, anchor.layout_sha256),
        ("training profile", question.profile_sha256, profile.sha256),
    ):
        if asked != own:
            raise QuestionRefusedError(
                RefusalCode.PROFILE,
                f"the question is about {what} {asked[:12]!r}; that of {anchor.release}, which was approved, is {own[:12]!r}",
            )
    match question:
        case FitQuestion():
            _require_names(arrays, frozenset({"parameters"}))
            _check_near(arrays["parameters"], anchor, profile.trust_radius)
        case AssessQuestion():
            _require_names(arrays, frozenset({"candidate"}))
            _check_near(arrays["candidate"], anchor, profile.trust_radius)
        case ScaleQuestion():
            _require_names(arrays, frozenset())
        case CovarianceQuestion():
            _require_names(arrays, _PRIOR)
            _check_scale(arrays, features)
        case CurveQuestion():
            _require_names(arrays, _SPREAD)
            _check_scale(arrays, features)
            _check_spread(question, arrays, features)
        case _:
            assert_never(question)


def _require_names(arrays: Arrays, names: frozenset[str]) -> None:
    if arrays.keys() != names:
        raise _arrays(f"the question goes with the arrays {sorted(names)}, it came with {sorted(arrays)[:8]}")


def _check_near(flat: NDArray[np.float32], anchor: Anchor, radius: float) -> None:
    trusted = anchor.parameters
    if flat.shape != trusted.shape:
        raise _arrays(f"{flat.shape} parameters came, {anchor.release} has {trusted.shape}")
    # Written positively, so that NaN fails; float64, so that nothing overflows and the distance is exact.
    largest = float(np.abs(flat).max(initial=0.0))
    if not largest <= LARGEST_ASKED:
        raise _arrays(f"a parameter of ±{largest:g}; at most {LARGEST_ASKED:g} are trained from")
    distance = float(np.linalg.norm(flat.astype(np.float64) - trusted))
    if not distance <= radius:
        raise _arrays(
            f"parameters {distance:.4g} away from {anchor.release}, the last approved release; its trust radius is {radius:g}"
        )


def _check_scale(arrays: Arrays, features: int) -> None:
    try:
        freedom = read_scale_prior(arrays, features).freedom
    except LayoutError as error:
        raise _arrays(str(error)) from None
    least, most = _FREEDOM
    odd = freedom[(freedom != 0) & ((freedom < least) | (freedom > most))]
    if len(odd):
        raise _arrays(f"a scale's freedom is 0, or within {least:g} and {most:g}; got {odd[0]:g}")


def _check_spread(question: CurveQuestion, arrays: Arrays, features: int) -> None:
    devices = question.devices
    if devices > MAX_COHORT or not (question.squares <= devices and question.error <= devices):
        raise _arrays(
            f"{devices} devices whose correlations' squares are {question.squares:g}, off by {question.error:g}; each has at most 1 of"
            f" either, and there are at most {MAX_COHORT}"
        )
    figures = {
        name: np.array([value], np.float64)
        for name, value in (
            ("spread_devices", devices),
            ("spread_squares", question.squares),
            ("spread_error", question.error),
        )
    }
    try:
        sums = read_spread({**arrays, **figures}, features)
    except LayoutError as error:
        raise _arrays(str(error)) from None
    correlation, wander = sums.correlation / devices, sums.wander / devices
    if np.abs(np.diag(correlation) - 1.0).max() > _ROUNDING or np.abs(correlation).max() > 1 + _ROUNDING:
        raise _arrays("what came as correlations has entries beyond 1, or another diagonal")
    if np.abs(wander).max() > WANDER_LIMIT:
        raise _arrays(f"what came as the wander has entries beyond {WANDER_LIMIT:g}")
    scale = max(1.0, float(np.trace(wander)) / features)
    for what, matrix, allowed in (
        ("correlations", correlation, _ROUNDING * features**0.5),
        ("wander", wander, _ROUNDING * scale * features**0.5),
    ):
        if float(np.linalg.eigvalsh(matrix)[0]) < -allowed:
            raise _arrays(
                f"what came as the {what} is no covariance: some direction varies less than not at all"
            )


def _arrays(words: str) -> QuestionRefusedError:
    return QuestionRefusedError(RefusalCode.ARRAYS, words)
