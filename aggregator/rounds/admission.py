"""Whether one device's answer may enter the sum: shape, finiteness, plausible counts, bounded update.

Pure rules, each raising AnswerRefusedError with a reason that names the value and what would be valid. One bad
answer costs that device its place in the round, never the round. These need to SEE the single answer: under a secure
sum the device clips itself instead, and the server can check the sum only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import AnswerRefusedError
from protocol.questions import AnswerLayout
from protocol.secure_answers import part_bound

__all__ = [
    "Admission",
    "admit_assessment",
    "admit_prior_part",
    "admit_update",
    "check_answer",
]

Admission = Callable[[Mapping[str, NDArray[np.float64]]], None]
"""A rule over the named parts of one answer; raises AnswerRefusedError, or returns for what may enter."""

WHOLE_COUNT_TOLERANCE: Final = 0.5
"""Counts travel as float32; a count of 16 million is exact, more is rounded."""

_SIGNED: Final = frozenset({"scale_logs", "correlation", "wander"})

MAXIMUM_EXAMPLES: Final = 100_000
"""The default: one device may not outweigh a fleet by claiming more."""


def check_answer(
    layout: AnswerLayout, vector: NDArray[np.floating], admission: Admission
) -> dict[str, NDArray[np.float64]]:
    """Name the parts of an admissible answer.

    Args:
        layout: of the question that was asked.
        vector: the flat answer, any float type, as it came.
        admission: the rule of the question.

    Raises:
        AnswerRefusedError: another shape or type, NaN or infinity (with how many and where first), or `admission` refused.
    """
    if vector.shape != (layout.total,):
        raise AnswerRefusedError(f"answer has shape {vector.shape}; the question asks for ({layout.total},)")
    if vector.dtype != np.float32:
        raise AnswerRefusedError(f"answer is {vector.dtype}; the question asks for float32")
    finite = np.isfinite(vector)
    if not finite.all():
        first = int(np.argmin(finite))
        ends = np.cumsum(list(layout.sizes.values()))
        part = list(layout.sizes)[int(np.searchsorted(ends, first, side="right"))]
        raise AnswerRefusedError(
            f"answer holds {int(np.count_nonzero(~finite))} NaN or infinite entries of {layout.total},"
            f" the first in {part!r}; valid are finite numbers"
        )
    parts = layout.unpack(vector)
    admission(parts)
    return parts


def admit_update(*, norm_limit: float) -> Admission:
    """The rule for ``train.fit``: one vote, or none with an update of zeros, and an update of at most `norm_limit` in L2 norm."""
    if not norm_limit > 0 or not np.isfinite(norm_limit):
        raise ValueError(f"norm_limit {norm_limit} must be a positive number")

    def rule(parts: Mapping[str, NDArray[np.float64]]) -> None:
        votes, norm = float(parts["votes"][0]), float(np.linalg.norm(parts["update"]))
        if votes not in {0.0, 1.0}:
            raise AnswerRefusedError(
                f"votes is {votes:.6g}; a device has one, or none where it did not train"
            )
        # A float32 rounding above the limit that the device itself clips to is no lie.
        if norm > norm_limit * votes * (1 + 1e-5):
            raise AnswerRefusedError(
                f"update has norm {norm:.4g} at {votes:g} votes; the limit is {norm_limit:.4g} a vote"
            )

    return rule


def admit_assessment(*, maximum_examples: int = MAXIMUM_EXAMPLES) -> Admission:
    """The rule for ``evaluate.assess``: plausible examples, no negative loss or count, histograms that add up to n."""

    def rule(parts: Mapping[str, NDArray[np.float64]]) -> None:
        examples = _admit_examples(parts, maximum_examples)
        for name in (
            "candidate_loss",
            "champion_loss",
            "range_low",
            "range_high",
            "feature_counts",
            "feature_squares",
        ):
            if (parts[name] < 0).any():
                raise AnswerRefusedError(
                    f"{name} has the negative entry {parts[name].min():.4g}; valid is 0 or more"
                )
        for name in (
            "candidate_scores",
            "champion_scores",
            "candidate_probe_scores",
            "champion_probe_scores",
        ):
            _admit_counts(parts, name, examples)
        votes = parts["threshold_votes"]
        if votes.sum() != 1.0 or votes.max() != 1.0 or votes.min() < 0.0:
            raise AnswerRefusedError(
                f"threshold_votes holds {votes.sum():.6g} votes, from {votes.min():.4g} to {votes.max():.4g}; a device has one"
            )

    return rule


def admit_prior_part(*, maximum_examples: int = MAXIMUM_EXAMPLES) -> Admission:
    """The rule for what a prior is made of: plausible examples, and parts within the bounds that a device clips to under a secure sum."""

    def rule(parts: Mapping[str, NDArray[np.float64]]) -> None:
        _admit_examples(parts, maximum_examples)
        for name, values in parts.items():
            bound = part_bound(name, maximum_examples=maximum_examples).bound
            least = -bound if name in _SIGNED else 0.0
            if values.min() < least * (1 + 1e-6) or values.max() > bound * (1 + 1e-6):
                raise AnswerRefusedError(
                    f"{name} goes from {values.min():.4g} to {values.max():.4g}; valid is {least:g} to {bound:g}"
                )

    return rule


def _admit_counts(parts: Mapping[str, NDArray[np.float64]], name: str, expected: float) -> None:
    counts = parts[name]
    if (counts < 0).any() or abs(counts.sum() - expected) > WHOLE_COUNT_TOLERANCE:
        raise AnswerRefusedError(
            f"{name} counts {counts.sum():.6g} scores; it must count each of the {expected:.6g} examples once"
        )


def _admit_examples(parts: Mapping[str, NDArray[np.float64]], maximum: int) -> float:
    examples = float(parts["examples"][0])
    if not 1 <= examples <= maximum:
        raise AnswerRefusedError(f"answer claims {examples:g} examples; valid is 1 to {maximum}")
    return examples
