"""What devices that fall silent do to a look: neither a release that is stopped for what others saw, nor one that goes on without evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fleet.gates.answers import Finding, LookAnswer
from fleet.gates.arms import Arms, Shown
from fleet.gates.coverage import without_short_spans
from fleet.gates.judge import judge_look
from fleet.gates.plan import GatePlan, Metric

DEVICES = 200


def shown_for(hours: float, *, rate: float, seed: int) -> Shown:
    rng = np.random.default_rng(seed)
    windows = np.full(DEVICES, 3600 * hours)
    none, unknown = np.zeros(DEVICES), np.full(DEVICES, np.nan)
    return Shown(
        hours=np.full(DEVICES, hours),
        windows=windows,
        judged=windows,
        over=rng.poisson(rate * windows).astype(float),
        log_latency=rng.normal(7, 0.01, DEVICES),
        log_drift=rng.normal(-1, 0.01, DEVICES),
        memory_slope=rng.normal(0, 0.001, DEVICES),
        sight=rng.normal(0.9, 0.01, DEVICES),
        restarts=none,
        first_event_hours=unknown,
        true_alarms=none,
        false_alarms=none,
    )


def arms_of(*, canaries: int = 20, rate: float = 0.01) -> Arms:
    return Arms(
        devices=tuple(f"press-{number}" for number in range(DEVICES)),
        is_canary=np.arange(DEVICES) < canaries,
        stratum=np.zeros(DEVICES, np.int64),
        before=shown_for(4, rate=0.01, seed=1),
        after=shown_for(1, rate=rate, seed=2),
        placebos=None,
        hazard_events=1.0,
        hazard_hours=4.0 * DEVICES,
    )


def silent(arms: Arms, who: np.ndarray, *, hours: float) -> Arms:
    """Those of `who` were heard for so many hours, in which they alarmed as they always did; with 0 hours, since before the span."""
    fresh = shown_for(hours, rate=0.01, seed=3)
    names = Shown.__dataclass_fields__
    after = {name: np.where(who, getattr(fresh, name), getattr(arms.after, name)) for name in names}
    after["first_event_hours"] = np.where(who, hours, after["first_event_hours"])
    if not hours:
        for name in ("log_latency", "log_drift", "memory_slope", "sight"):
            after[name] = np.where(who, np.nan, after[name])
    return replace(arms, after=Shown(**after))


def last_look(arms: Arms) -> LookAnswer:
    return judge_look(arms, GatePlan(), group=0, groups=3, number=6, of=6, is_last=True)


def test_a_shift_that_begins_after_the_controls_fell_silent_is_not_the_releases_fault() -> None:
    busy = arms_of(rate=0.03)
    answer = last_look(silent(busy, ~busy.is_canary, hours=0.2))
    assert answer.finding is Finding.NOT_SEEN
    rate = next(one for one in answer.answers if one.metric is Metric.ANOMALY_RATE)
    assert rate.finding is Finding.NOT_SEEN
    assert "no control" in rate.reason
    # harm that controls watched as long is found all the same
    harmed = replace(busy, after=replace(busy.after, over=np.where(busy.is_canary, busy.after.over, 36.0)))
    assert last_look(harmed).finding is Finding.STOP


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_device_that_showed_less_than_half_of_what_others_did_is_not_compared(share: float) -> None:
    arms = arms_of()
    few = silent(arms, np.arange(DEVICES) % 10 == 0, hours=share)
    kept = without_short_spans(few).after
    assert (np.isfinite(kept.log_latency).all()) == (share >= 0.5)
    assert (kept.windows > 0).sum() == (DEVICES if share >= 0.5 else 0.9 * DEVICES)
    np.testing.assert_array_equal(kept.first_event_hours, few.after.first_event_hours)


def test_canaries_that_crash_before_they_have_warmed_up_stop_the_release() -> None:
    arms = arms_of(canaries=5)
    answer = judge_look(
        silent(arms, arms.is_canary, hours=0.0), GatePlan(), group=0, groups=3, number=1, of=6, is_last=False
    )
    assert answer.finding is Finding.STOP
    assert "restarts" in answer.reason


def test_the_one_canary_that_died_is_no_evidence_for_the_release() -> None:
    arms = arms_of(canaries=1)
    answer = last_look(silent(arms, arms.is_canary, hours=0.0))
    assert answer.finding is Finding.PAUSE
    assert "no evidence" in answer.reason
    died_unheard = replace(
        arms, after=replace(arms.after, hours=np.where(arms.is_canary, 0.0, arms.after.hours))
    )
    assert last_look(died_unheard).finding is Finding.PAUSE


def test_the_past_is_asked_about_the_warm_up_too() -> None:
    """A fleet whose devices fall silent now and then has some that do while canaries warm up."""
    arms = replace(arms_of(canaries=100), hazard_events=80.0)
    few = silent(arms, np.arange(DEVICES) < 5, hours=0.0)
    first = replace(few.after, hours=np.where(np.arange(DEVICES) < 5, 0.0, 0.025))
    looked = judge_look(
        replace(few, after=first), GatePlan(), group=0, groups=3, number=1, of=6, is_last=False
    )
    assert looked.finding is Finding.NOT_SEEN


def test_canaries_that_never_say_a_word_stop_the_release_without_a_warm_up_too() -> None:
    arms = arms_of(canaries=5)
    answer = judge_look(
        silent(arms, arms.is_canary, hours=0.0),
        GatePlan(warm_up_s=0),
        group=0,
        groups=3,
        number=1,
        of=6,
        is_last=False,
    )
    assert answer.finding is Finding.STOP
