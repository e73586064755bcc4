"""When a run starts, who is asked, and what a family is held to: pure rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from aggregator.rounds.cohorts import CohortSettings, select_cohort
from aggregator.rounds.gate import GateSettings
from aggregator.triggers import DriftSummary, RunHistory, TriggerSettings, decide_trigger
from protocol.names import DeviceId


@given(
    st.integers(0, 60), st.floats(0.05, 1.0), st.floats(1.0, 2.0), st.integers(1, 5), st.integers(0, 2**31)
)
def test_a_cohort_is_drawn_from_who_is_there_and_can_be_closed(
    online: int, fraction: float, over: float, minimum: int, seed: int
) -> None:
    names = [DeviceId(f"d{i}") for i in range(online)]
    policy = CohortSettings(fraction=fraction, over_selection=over, minimum_devices=minimum)
    cohort = select_cohort(names, policy, np.random.default_rng(seed))
    assert set(cohort.devices) <= set(names)
    assert len(set(cohort.devices)) == len(cohort.devices)
    assert cohort.enough >= cohort.quorum == minimum
    if online >= minimum:
        assert cohort.quorum <= len(cohort.devices)
        assert cohort.enough <= len(cohort.devices)
    assert cohort == select_cohort(reversed(names), policy, np.random.default_rng(seed))


def test_a_whole_fleet_that_is_asked_does_not_wait_for_its_last_straggler() -> None:
    policy = CohortSettings(fraction=1.0, over_selection=1.2, minimum_devices=3)
    cohort = select_cohort([DeviceId(f"d{i}") for i in range(12)], policy, np.random.default_rng(0))
    assert (len(cohort.devices), cohort.enough) == (12, 10)


RULES = TriggerSettings(drift_share=0.5, within_s=100.0, cooldown_s=50.0, schedule_every_s=1000.0)
IDLE = RunHistory(is_running=False, last_ended_at=None)


def fresh(drifted: int, devices: int = 4, since: float | None = 990.0) -> DriftSummary:
    return DriftSummary(devices=devices, drifted_since=(since,) * drifted)


@pytest.mark.parametrize(
    ("drift", "history", "kind"),
    [
        (fresh(1), IDLE, None),
        (fresh(2), IDLE, "drift"),
        (fresh(2, since=None), IDLE, "drift"),
        (fresh(4, since=899.0), IDLE, None),
        (fresh(4, since=900.0), IDLE, "drift"),
        (fresh(4), RunHistory(is_running=True, last_ended_at=None), None),
        (fresh(4), RunHistory(is_running=False, last_ended_at=951.0), None),
        (fresh(4), RunHistory(is_running=False, last_ended_at=950.0), "drift"),
        (fresh(1, devices=1), IDLE, None),
        (fresh(0, devices=0), IDLE, None),
    ],
    ids=[
        "too few", "half the fleet", "undated", "long ago", "just lately", "under way", "cooling down", "cooled down",
        "fewer than the quorum", "no fleet",
    ],
)  # fmt: skip
def test_drift_starts_a_run_when_enough_of_the_fleet_entered_it_lately(
    drift: DriftSummary, history: RunHistory, kind: str | None
) -> None:
    trigger = decide_trigger(RULES, drift, history, now=1000.0, watching_since=900.0, minimum_devices=2)
    assert (trigger.kind if trigger else None) == kind


def test_the_schedule_counts_from_the_last_run_or_from_the_start() -> None:
    quiet = fresh(0)
    assert decide_trigger(RULES, quiet, IDLE, now=1999.0, watching_since=1000.0, minimum_devices=2) is None
    due = decide_trigger(RULES, quiet, IDLE, now=2000.0, watching_since=1000.0, minimum_devices=2)
    assert due is not None
    assert due.kind == "schedule"
    ran = RunHistory(is_running=False, last_ended_at=1500.0)
    assert decide_trigger(RULES, quiet, ran, now=2000.0, watching_since=0.0, minimum_devices=2) is None


@pytest.mark.parametrize(
    ("last_ended_at", "kind"), [(None, "precision"), (500.0, "precision"), (700.0, None)]
)
def test_verdicts_start_one_run_for_each_loss_of_precision(
    last_ended_at: float | None, kind: str | None
) -> None:
    policy = structs.replace(RULES, precision_drift=True, schedule_every_s=None)
    less_precise = replace(fresh(0), precision_drifted_since=600.0)
    history = RunHistory(is_running=False, last_ended_at=last_ended_at)
    trigger = decide_trigger(policy, less_precise, history, now=1000.0, watching_since=0.0, minimum_devices=2)
    assert (trigger.kind if trigger else None) == kind


def test_triggers_that_are_switched_off_never_fire() -> None:
    off = TriggerSettings(within_s=1.0, cooldown_s=0.0)
    drifting = replace(fresh(4), precision_drifted_since=1.0)
    assert decide_trigger(off, drifting, IDLE, now=1e9, watching_since=0.0, minimum_devices=2) is None
    assert decide_trigger(off, fresh(4, since=None), IDLE, 1e9, watching_since=0.0, minimum_devices=2) is None


def test_what_a_family_is_held_to_that_says_nothing() -> None:
    # No worse than the champion; one healthy window in a hundred may alarm; int8 may cost a twentieth of the output.
    assert GateSettings() == GateSettings(
        minimum_improvement=0.0, maximum_alarm_rate=0.01, maximum_int8_error=0.05
    )
    # Nothing starts by itself; drift is fresh for a day; a release gets an hour before the next run.
    assert TriggerSettings() == TriggerSettings(
        drift_share=None, precision_drift=False, within_s=86_400.0, cooldown_s=86_400.0, schedule_every_s=None
    )
    assert [
        TriggerSettings(**on).is_on
        for on in ({}, {"drift_share": 0.5}, {"schedule_every_s": 1.0}, {"precision_drift": True})
    ] == [False, True, True, True]
