"""Whether one device's answer may enter the sum: shape, finiteness, and what holds of every sum, that of one device included.

Pure rules, each raising AnswerRefusedError with a reason that names the value and what would be valid. One bad
answer costs that device its place in the round, never the round. These need to SEE the single answer: under a secure
sum the device clips itself instead, and the server asks the same of the sum (`sum_checks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import AnswerRefusedError
from aggregator.rounds.sum_checks import check_sum
from protocol.questions import ASSESS, FIT, AnswerLayout, Kind
from protocol.secure_answers import Precision

__all__ = [
    "Admission",
    "admit_assessment",
    "admit_prior_part",
    "admit_update",
    "check_answer",
]

Admission = Callable[[Mapping[str, NDArray[np.float64]]], None]
"""A rule over the named parts of one answer; raises AnswerRefusedError, or returns for what may enter."""

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
    return _rule(FIT, Precision(norm_limit=norm_limit, maximum_examples=1))


def admit_assessment(*, maximum_examples: int = MAXIMUM_EXAMPLES) -> Admission:
    """The rule for ``evaluate.assess``: of at most so many windows."""
    return _rule(ASSESS, Precision(norm_limit=1.0, maximum_examples=maximum_examples))


def admit_prior_part(kind: Kind, *, maximum_examples: int = MAXIMUM_EXAMPLES) -> Admission:
    """The rule for what a prior is made of, the answers to questions of this `kind`: of at most so many windows."""
    return _rule(kind, Precision(norm_limit=1.0, maximum_examples=maximum_examples))


def _rule(kind: Kind, precision: Precision) -> Admission:
    return lambda parts: check_sum(kind, parts, 1, precision)
