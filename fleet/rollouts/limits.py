"""What stops a group at once: limits, which no device that runs the release may pass.

Pure functions of plan, executions and figures. Each answer carries its reason in words, with the device or the
figure that decided, because that is what the timeline shows. Two choices:

* A limit is judged on every device by itself: the mean of a hundred well machines hides one that alarms without end.
  Health is differential: a device that was beyond the limit before it got the release is held to what it showed then
  (with `TOLERANCE`), so a machine that is really broken does not condemn a release.
* A device that speaks but judges nothing is no evidence, for the release or against it: a dead sensor is not the
  release's doing. It differs from one that is silent. Nor does it let a release pass: where more than half of a group
  judges nothing, the group waits for a person, for a release that blinds its devices would look just so.

Rates fail only when chance does not explain them: the lower Wilson bound of the rate is beyond the limit
(E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927). That holds of one
device at one moment; a limit is asked of all, again and again, so how often it stops a good release is not known. What
can be guaranteed of that, `fleet.gates` guarantees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Final

from fleet.rollouts.counts import Judgement, Outcome
from fleet.rollouts.executions import Execution, Figures
from fleet.rollouts.plans import Limit, LimitMetric, SuccessCriteria, share_of
from protocol.names import DeviceId

__all__ = ["TOLERANCE", "judge_limit", "judge_limits", "wilson_lower_bound"]

TOLERANCE: Final = 1.25
"""How much above its own earlier figure a device may be that was beyond the value already."""


def judge_limits(
    limits: Sequence[Limit],
    criteria: SuccessCriteria,
    treated: Sequence[Execution],
    figures: Mapping[DeviceId, Figures],
    *,
    is_overdue: bool = False,
) -> Judgement:
    """All limits over the devices of a group that committed the release.

    The first limit that fails decides. Holds only when none fails, every device that can judge (but the share that
    `threshold_pct` forgives) has shown enough, and at least half of the group can judge.

    Args:
        limits: the plan's.
        criteria: how much a device must have shown to be judged.
        treated: executions that committed the release.
        figures: what those devices showed since, on the release.
        is_overdue: whether a device that has judged no window is not waited for any longer; one that says that it is
            blind never is.

    Returns:
        UNDECIDED where health is missing of devices that should have sent it, BLIND where more than half of the group
        has nothing to judge.
    """
    if not limits:
        return Judgement(outcome=Outcome.HOLDS, reason="no limit is set")
    for limit in limits:
        judgement = judge_limit(limit, criteria, treated, figures)
        if judgement.outcome is Outcome.FAILS:
            return judgement
    blind = sorted(e.device for e in treated if _sees_nothing(figures.get(e.device), is_overdue=is_overdue))
    asked = sorted({e.device for e in treated}.difference(blind))
    silent = [device for device in asked if not _suffices(figures.get(device), criteria)]
    if len(asked) - len(silent) < share_of(criteria.threshold_pct, len(asked)):
        return Judgement(
            outcome=Outcome.UNDECIDED,
            reason=f"{len(silent)} of {len(asked)} devices have not shown enough health on the release yet ({_name(silent)})",
        )
    if 2 * len(blind) > len(treated):
        return Judgement(
            outcome=Outcome.BLIND,
            reason=f"{len(blind)} of {len(treated)} devices judge no window ({_name(blind)}), so nothing is known of the"
            " release: mend their sensors, or decide without them (trigger-next-group, cancel, rollback)",
        )
    held = ", ".join(limit.text for limit in limits)
    unseen = f"; {len(blind)} judge no window and are left out ({_name(blind)})" if blind else ""
    return Judgement(outcome=Outcome.HOLDS, reason=f"{held}{unseen}")


def _sees_nothing(figures: Figures | None, *, is_overdue: bool) -> bool:
    return figures is not None and (figures.is_blind or (is_overdue and not figures.windows))


def _name(devices: Sequence[DeviceId]) -> str:
    return ", ".join(devices[:3]) + (", …" if len(devices) > 3 else "")


def judge_limit(
    limit: Limit, criteria: SuccessCriteria, treated: Sequence[Execution], figures: Mapping[DeviceId, Figures]
) -> Judgement:
    """One limit, on each device that has shown enough; undecided where none has. Arguments as `judge_limits`."""
    judged = [(e, figures[e.device]) for e in treated if _suffices(figures.get(e.device), criteria)]
    if not judged:
        return Judgement(outcome=Outcome.UNDECIDED, reason=f"{limit.text}: no device has shown enough yet")
    for execution, shown in judged:
        value, origin = limit.value, ""
        if execution.before is not None and _suffices(execution.before, criteria):
            own = _figure(limit.metric, execution.before)
            if own > value:
                value, origin = _own_limit(limit.metric, own), f" (its own {own:.3g} before, and tolerance)"
        if _is_beyond(limit, shown, value, criteria.confidence):
            return Judgement(
                outcome=Outcome.FAILS,
                reason=f"{limit.text} fails on {execution.device}: {_figure(limit.metric, shown):.3g}"
                f" against {value:.3g}{origin}",
            )
    worst = max(_figure(limit.metric, shown) for _, shown in judged)
    return Judgement(
        outcome=Outcome.HOLDS, reason=f"{limit.text} holds on {len(judged)} devices, worst {worst:.3g}"
    )


def _own_limit(metric: LimitMetric, own: float) -> float:
    if metric is LimitMetric.ANOMALY_RATE:
        # a rate ends at 1: half-way there, so that a device that alarmed often can still show that it got worse
        return min(own * TOLERANCE, (1 + own) / 2)
    return own * TOLERANCE


def _suffices(figures: Figures | None, criteria: SuccessCriteria) -> bool:
    return (
        figures is not None
        and not figures.is_blind
        and figures.reports >= criteria.min_reports
        and figures.windows >= criteria.min_windows
    )


def _figure(metric: LimitMetric, figures: Figures) -> float:
    match metric:
        case LimitMetric.ANOMALY_RATE:
            return figures.anomaly_rate
        case LimitMetric.INFERENCE_P99_US:
            return figures.inference_p99_us
        case LimitMetric.DRIFT_SCORE:
            return figures.drift_score


def _is_beyond(limit: Limit, figures: Figures, value: float, confidence: float) -> bool:
    shown = _figure(limit.metric, figures)
    if limit.metric is LimitMetric.ANOMALY_RATE:
        shown = wilson_lower_bound(figures.windows_over, figures.windows, confidence)
        # a rate of 1 is beyond every limit below 1, but its bound stays under 1: a limit of 1 cannot fail
    return shown >= value if limit.op == "<" and shown > 0 else shown > value


def wilson_lower_bound(successes: float, trials: int, confidence: float) -> float:
    """The one-sided lower `confidence` bound of a proportion, in [0, 1]; 0 where there were no trials.

    A rate is beyond a limit only where this bound is: then chance alone does not explain it.

    Args:
        successes: may be a fraction of a window, where a device reports rates.
        trials: how many windows.
        confidence: in [0.5, 1).

    Example:
        >>> round(wilson_lower_bound(10, 10, 0.95), 3)
        0.787
    """
    if trials == 0:
        return 0.0
    z = NormalDist().inv_cdf(confidence)
    share = min(successes / trials, 1.0)
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, (centre - spread) / (1 + z * z / trials))
