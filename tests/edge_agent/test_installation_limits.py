"""The limits that guard a device while a release is installed: as literals, on both sides of each."""

from __future__ import annotations

import pytest
from installation_rules_world import WORK, at, committed, played, wanted
from msgspec.structs import replace

from edge_agent.errors import ReleaseRefusedError
from edge_agent.installation import events as ev
from edge_agent.installation.acceptance import Requirements, check_request, check_space
from edge_agent.installation.journal import Baseline
from edge_agent.installation.transitions import decide
from edge_agent.installation.trial import Failed, Passed, Trial, TrialLimits, WindowRecord
from protocol.messages.kinds import InstallStep
from protocol.messages.kinds import InstallStep as S

pytestmark = pytest.mark.edge


def test_four_mebibytes_of_disk_and_a_bundle_of_64_are_the_bounds_unless_the_owner_says_otherwise() -> None:
    ours = Requirements(family="pump")
    assert (ours.reserve_bytes, ours.maximum_bytes, ours.features) == (4_194_304, 67_108_864, None)
    check_space(1, 4_194_305, ours)
    check_request(replace(wanted(1), bundle_bytes=67_108_864), ours)
    with pytest.raises(ReleaseRefusedError, match="67108865 bytes; this device takes at most 67108864"):
        check_request(replace(wanted(1), bundle_bytes=67_108_865), ours)


def test_a_trial_is_ten_windows_and_at_most_three_times_as_slow_and_2_ms_and_never_over_250_ms() -> None:
    limits = TrialLimits()
    assert limits == TrialLimits(
        windows=10, latency_factor=3.0, latency_slack_us=2000.0, maximum_latency_us=250_000.0
    )
    before = Baseline(windows=5, latency_us=1000.0, error_share=0.0)
    assert median_of(5000.0, before) == Passed()
    assert median_of(5000.5, before) == Failed(
        reason="median inference time 5000 µs, 1000 µs before it; at most 5000 µs is allowed"
    )
    slow = Baseline(windows=5, latency_us=200_000.0, error_share=0.0)
    for baseline in (slow, None):
        assert median_of(250_000.0, baseline) == Passed()
        assert isinstance(median_of(250_001.0, baseline), Failed)


def test_fewer_than_five_windows_of_the_release_before_say_nothing_about_its_speed() -> None:
    few = Baseline(windows=4, latency_us=10.0, error_share=0.0)
    assert median_of(200_000.0, few) == Passed()
    assert isinstance(median_of(200_000.0, replace(few, windows=5)), Failed)
    assert isinstance(median_of(300_000.0, None), Failed)


def median_of(latency_us: float, baseline: Baseline | None) -> object:
    trial = Trial(TrialLimits(), baseline)
    verdicts = [trial.observe(0.5, latency_us, None) for _ in range(10)]
    assert verdicts[:9] == [None] * 9
    return verdicts[9]


def test_a_fault_names_its_window_and_counts_only_against_a_release_that_follows_a_sound_one() -> None:
    sound, faulty = (Baseline(windows=9, latency_us=1.0, error_share=share) for share in (0.0, 0.125))
    for baseline in (None, sound):
        trial = Trial(TrialLimits(), baseline)
        trial.observe(0.5, 1.0, None)
        assert trial.observe(None, 1.0, "no input") == Failed(reason="window 2: no input")
    trial = Trial(TrialLimits(windows=2), faulty)
    assert [trial.observe(None, 1.0, "no input") for _ in range(20)] == [None] * 20
    assert [trial.observe(0.0, 1.0, None) for _ in range(2)] == [None, Passed()]


def test_sixty_four_windows_are_remembered_of_the_release_before() -> None:
    record = WindowRecord()
    record.add(0.0, has_failed=True)
    for _ in range(63):
        record.add(7.0, has_failed=False)
    assert record.baseline() == Baseline(windows=63, latency_us=7.0, error_share=1 / 64)
    record.add(7.0, has_failed=False)
    assert record.baseline() == Baseline(windows=64, latency_us=7.0, error_share=0.0)


def test_a_record_of_nothing_but_failures_is_a_yardstick_too() -> None:
    record = WindowRecord()
    record.add(5.0, has_failed=True)
    assert record.baseline() == Baseline(windows=0, latency_us=0.0, error_share=1.0)


@pytest.mark.parametrize("step", [S.PROBING, S.SHADOWING, S.ACTIVATING, S.TRIAL])
def test_what_never_proved_itself_is_begun_three_times_and_not_a_fourth(step: InstallStep) -> None:
    journal = at(step)
    assert journal.attempt is not None
    assert journal.attempt.starts == 1
    for starts in (2, 3):
        decision = decide(journal, ev.Restarted())
        journal = decision.journal
        assert journal.attempt is not None
        assert (journal.attempt.starts, journal.step()) == (starts, step)
        assert [report.step for report in decision.reports] == [step]
    last = decide(journal, ev.Restarted())
    assert last.reports[-1].reason == f"the agent ended 3 times during {step.value} of pump/2"
    assert last.journal.step() is (S.ROLLING_BACK if step is S.TRIAL else S.IDLE)


def test_stopping_in_good_order_gives_the_start_back_and_never_more_than_that() -> None:
    trial = at(S.TRIAL)
    closed = played(trial, ev.Closing())
    assert closed.attempt is not None
    assert closed.attempt.starts == 0
    assert played(closed, ev.Closing()) == closed
    assert played(closed, ev.Restarted()) == trial
    assert played(trial, ev.Restarted(), ev.Closing()) == trial
    assert played(committed(1), ev.Closing()) == committed(1)


@pytest.mark.parametrize("step", [S.CHECKING, S.DOWNLOADING, S.VERIFYING, S.STAGED])
def test_steps_that_run_nothing_may_be_begun_as_often_as_the_power_fails(step: InstallStep) -> None:
    journal = at(step)
    assert journal.attempt is not None
    assert journal.attempt.starts == 0
    for _ in range(9):
        decision = decide(journal, ev.Restarted())
        assert (decision.journal, decision.effect) == (journal, WORK[step])
        assert [report.step for report in decision.reports] == [step]
