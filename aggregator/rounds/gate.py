"""Whether a candidate model may replace the champion: every reason, for or against, in words.

Pure. The losses and the alarm rate come from the federated evaluation on windows no device trained on; the int8 error
compares the exported model with the float candidate. All checks are always made, so that a refusal names everything
that is wrong, not only the first thing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct

from aggregator.rounds.int8_report import Int8Report
from aggregator.rounds.release_checks import MOST_SIGHT_LOST
from aggregator.rounds.runs import Check

__all__ = ["GateSettings", "check_candidate", "check_int8", "failed_reasons"]


LESS_ALARMS: Final = 0.5
"""Of the champion's alarms: a candidate that raises no more is let pass although it raises too many."""


class GateSettings(Struct, frozen=True, kw_only=True):
    """``[family.gate]``: what a candidate must reach.

    Attributes:
        minimum_improvement: of the loss, relative to the champion's (0.02 = 2 % lower; negative allows some harm).
        maximum_alarm_rate: share of held-out windows above the proposed threshold; more are let pass where they are half the champion's.
        judging_share: of a run's groups, those that do not train and alone compare the candidate with the champion: whoever teaches a
            candidate also likes it best. At least three groups train; where there are no more, all judge.
        maximum_int8_error: mean squared difference of int8 and float outputs over the mean square of the float outputs.
    """

    minimum_improvement: float = 0.0
    maximum_alarm_rate: Annotated[float, Meta(ge=0, le=1)] = 0.01
    judging_share: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    maximum_int8_error: Annotated[float, Meta(gt=0)] = 0.05


def check_candidate(
    limits: GateSettings,
    *,
    candidate_loss: float,
    champion_loss: float,
    alarm_rate: float,
    champion_alarm_rate: float = 0.0,
    judges: str = "",
    threshold: float,
) -> tuple[Check, ...]:
    """Judge a candidate by the federated evaluation: losses are means per window of the `judges`, rates in [0, 1].

    A threshold rises by half from one release to the next, and no more. So a champion that alarms far too often is followed by one
    that alarms less, if not yet rarely.
    """
    most, what = limits.maximum_alarm_rate, f"above the proposed threshold {threshold:.4g}"
    if alarm_rate > most and alarm_rate <= LESS_ALARMS * champion_alarm_rate:
        most = LESS_ALARMS * champion_alarm_rate
        what += f" (beyond {limits.maximum_alarm_rate:.4g} as far as it halves the champion's {champion_alarm_rate:.4g})"
    return (
        _check_improvement(limits.minimum_improvement, candidate_loss, champion_loss, judges),
        _at_most("alarm_rate", alarm_rate, most, f"share of held-out windows {what}"),
    )


def check_int8(limits: GateSettings, report: Int8Report) -> tuple[Check, ...]:
    """Judge the exported int8 model by its distance from the float candidate: on typical windows and livelier ones, and in what it sees."""
    return (
        _at_most(
            "int8_error",
            float(np.maximum(report.output_error, report.lively_error)),
            limits.maximum_int8_error,
            "relative squared error of int8 against float",
        ),
        Check(
            name="int8_sight",
            value=report.sight,
            limit=report.float_sight - MOST_SIGHT_LOST,
            is_passed=report.sight >= report.float_sight - MOST_SIGHT_LOST,
            reason=f"of slightly disturbed windows int8 sees {report.sight:.1%}, float {report.float_sight:.1%}"
            f" (at most {MOST_SIGHT_LOST:.0%} fewer)",
        ),
    )


def failed_reasons(checks: Iterable[Check]) -> tuple[str, ...]:
    """The sentences of the checks that did not pass; empty: the candidate may go on."""
    return tuple(check.reason for check in checks if not check.is_passed)


def _check_improvement(limit: float, candidate: float, champion: float, judges: str) -> Check:
    # A champion without loss cannot be improved on; a NaN anywhere must fail, so the comparison is written positively.
    gain = (
        (champion - candidate) / champion if champion > 0 else (0.0 if candidate <= champion else -math.inf)
    )
    passed = math.isfinite(gain) and gain >= limit
    verb = "is enough" if passed else "is not enough"
    return Check(
        name="improvement",
        value=gain,
        limit=limit,
        is_passed=passed,
        reason=f"loss {candidate:.4g} against the champion's {champion:.4g}: {gain:+.2%} {verb} (at least {limit:+.2%})"
        + (f", to {judges}" if judges else ""),
    )


def _at_most(name: str, value: float, limit: float, what: str) -> Check:
    passed = math.isfinite(value) and value <= limit
    verb = "is within" if passed else "exceeds"
    return Check(
        name=name,
        value=value,
        limit=limit,
        is_passed=passed,
        reason=f"{what}: {value:.4g} {verb} {limit:.4g}",
    )
