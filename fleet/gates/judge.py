"""What a look at a group says: every metric by itself, and what follows from all of them.

STOP where one metric shows harm beyond chance, else PAUSE where one is unusual, and at the end of a soak PASS where every one
excludes harm of the size that matters, else NOT_SEEN. No state: what was seen at earlier looks is spent already.
"""

from __future__ import annotations

from fleet.gates import words
from fleet.gates.answers import Answer, Finding, LookAnswer
from fleet.gates.arms import Arms
from fleet.gates.belief import believe
from fleet.gates.comparisons import compare, is_applicable
from fleet.gates.coverage import without_short_spans
from fleet.gates.looks import Look, levels
from fleet.gates.plan import GatePlan, Metric
from fleet.gates.restarts import judge_restarts
from fleet.gates.verdicts import judge_verdicts

__all__ = ["judge_look"]


def judge_look(
    arms: Arms,
    plan: GatePlan,
    *,
    group: int,
    groups: int,
    number: int,
    of: int,
    is_last: bool,
    extension: int = 0,
) -> LookAnswer:
    """What look `number` of `of` says of the release.

    Args:
        arms: what canaries and controls showed; canaries of a later group are all devices that were given the release so far.
        plan: the metrics, and how often a harmless release may be stopped.
        group: of the plan's `groups`, from 0: the levels depend on it.
        groups: how many groups the plan has.
        number: of this look, from 1; after the soak it stays `of`.
        of: how many looks the soak has (`looks.look_times`).
        is_last: the soak is over, so that PASS is possible.
        extension: 0 in the soak; 1 at twice the soak, 2 at four times: spends of what was reserved.

    Raises:
        ValueError: there is no such group or look.
    """
    arms = believe(arms)
    look = Look(
        number=number,
        of=of,
        is_last=is_last,
        levels=levels(plan, group, groups, number=number, of=of, extension=extension),
    )
    missing = _missing(arms)
    if missing is not None:
        finding, reason = missing
        return LookAnswer(finding=finding, reason=reason, number=number, of=of, is_last=is_last, answers=())
    comparable = without_short_spans(arms)
    answers = tuple(_answer(metric, arms, comparable, plan, look) for metric in plan.metrics)
    asked = [answer for answer in answers if _counts_for_passing(answer.metric, arms)]
    finding, reason = _together(answers, asked, look)
    if is_last and finding is Finding.NOT_SEEN and not (arms.after.hours[arms.runs_it] > 0).any():
        # also where one alone fell silent, which is no event of two: of devices that died nothing is ever seen
        canaries = words.devices(int(arms.runs_it.sum()), "canary")
        finding, reason = Finding.PAUSE, f"no evidence: none of {canaries} was heard; {reason}"
    return LookAnswer(
        finding=finding,
        reason=reason,
        number=number,
        of=of,
        is_last=is_last,
        answers=answers,
        open=tuple(answer.metric for answer in asked if is_last and answer.finding is not Finding.PASS),
    )


def _missing(arms: Arms) -> tuple[Finding, str] | None:
    """What follows where there is nothing to judge."""
    if not arms.runs_it.any():
        return Finding.PAUSE, "no evidence: no device has the release (revoked, or never heard)"
    if not (arms.before.hours > 0).any():
        # there was a past, and it was lost, or is not rolled up yet, or all were switched off: that passes nothing
        if arms.ran_before or (arms.after.judged[~arms.is_canary] > 0).any():
            return Finding.NOT_SEEN, "no device's past is known, though devices ran a release before"
        # the first release of a fleet cannot be worse than none
        return Finding.PASS, "nothing to compare with: no device ran a release before"
    return None


def _answer(metric: Metric, arms: Arms, comparable: Arms, plan: GatePlan, look: Look) -> Answer:
    match metric:
        case Metric.RESTARTS:
            return judge_restarts(arms, look, plan.warm_up_s)
        case Metric.VERDICTS:
            return judge_verdicts(arms, look)
        case _:
            return compare(metric, comparable, look)


def _together(answers: tuple[Answer, ...], asked: list[Answer], look: Look) -> tuple[Finding, str]:
    """What follows from all answers; those that are `asked` must pass."""
    for finding in (Finding.STOP, Finding.PAUSE):
        found = [answer for answer in answers if answer.finding is finding]
        if found:
            return finding, "; ".join(answer.reason for answer in found)
    open_still = [words.NAMES[answer.metric] for answer in asked if answer.finding is not Finding.PASS]
    if not look.is_last:
        return Finding.NOT_SEEN, f"no harm seen so far, {look.name}"
    if asked and not open_still:
        return (
            Finding.PASS,
            f"harm is excluded for {', '.join(words.NAMES[answer.metric] for answer in asked)}",
        )
    if not asked:
        return Finding.NOT_SEEN, "no metric can be judged: no device told one before"
    first = next(answer for answer in asked if answer.finding is not Finding.PASS)
    return Finding.NOT_SEEN, f"harm is not excluded for {', '.join(open_still)}. {first.reason}"


def _counts_for_passing(metric: Metric, arms: Arms) -> bool:
    """Verdicts only pause, and what no device ever measured is asked of nobody."""
    if metric is Metric.VERDICTS:
        return False
    return metric is Metric.RESTARTS or is_applicable(metric, arms)
