"""The rules of installing one by one: limits as literals on both sides, every arrow of the drawing, what is kept and what is told."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from installation_world import FEATURES, REQUIREMENTS, ask, make_bundle

from edge_agent.errors import ReleaseRefusedError
from edge_agent.installation import events as ev
from edge_agent.installation.acceptance import (
    Novelty,
    Requirements,
    check_fit,
    check_request,
    check_space,
    novelty,
)
from edge_agent.installation.inbox import Inbox
from edge_agent.installation.journal import Attempt, Baseline, BundleRef, Journal
from edge_agent.installation.transitions import Decision, decide
from edge_agent.installation.trial import Failed, Passed, Trial, TrialLimits, WindowRecord
from protocol.bundle import peek_manifest
from protocol.manifest import Manifest
from protocol.messages.kinds import InstallStatus, InstallStep, ShadowOutcome
from protocol.messages.payloads import DesiredState, InstallReport, ShadowReport

pytestmark = pytest.mark.edge
replace = msgspec.structs.replace
S, Status = InstallStep, InstallStatus


def ref(version: int) -> BundleRef:
    return BundleRef(release=f"pump/{version}", sha256=hashlib.sha256(bytes([version])).hexdigest())


def wanted(version: int, counter: int | None = None) -> DesiredState:
    """A desired state for `ref(version)`."""
    return ask(bytes([version]), version, counter)


def played(journal: Journal, *events: ev.Event) -> Journal:
    for event in events:
        journal = decide(journal, event).journal
    return journal


def asked(version: int, counter: int | None = None) -> ev.Asked:
    return ev.Asked(desired=wanted(version, counter))


def shadowed(version: int, outcome: ShadowOutcome = ShadowOutcome.PASSED) -> ev.Shadowed:
    return ev.Shadowed(sha256=ref(version).sha256, report=ShadowReport(outcome=outcome, note="because"))


def committed(*versions: int) -> Journal:
    """A device that installed these one after the other."""
    journal = Journal()
    for counter, version in enumerate(versions, start=1):
        journal = played(
            journal,
            asked(version, counter),
            ev.Checked(is_on_disk=True),
            ev.Verified(),
            ev.Staged(),
            ev.Probed(),
            shadowed(version),
            ev.Opened(baseline=None),
            ev.TrialEnded(sha256=ref(version).sha256, failure=None),
        )
    return journal


# --- the limits that guard the device ----------------------------------------------------------------------------------------


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


# --- every arrow of the drawing, with the work it begins and the word it sends ------------------------------------------------

ROAD: list[tuple[InstallStep, ev.Event]] = [
    (S.CHECKING, ev.Checked(is_on_disk=False)),
    (S.DOWNLOADING, ev.Downloaded()),
    (S.VERIFYING, ev.Verified()),
    (S.STAGED, ev.Staged()),
    (S.PROBING, ev.Probed()),
    (S.SHADOWING, shadowed(2)),
    (S.ACTIVATING, ev.Opened(baseline=Baseline(windows=9, latency_us=2.0, error_share=0.0))),
    (S.TRIAL, ev.TrialEnded(sha256=ref(2).sha256, failure="slow")),
]
WORK = {
    S.CHECKING: ev.Check(desired=wanted(2, 9)),
    S.DOWNLOADING: ev.Download(desired=wanted(2, 9)),
    S.VERIFYING: ev.Verify(desired=wanted(2, 9)),
    S.STAGED: ev.Proceed(),
    S.PROBING: ev.Probe(bundle=ref(2)),
    S.SHADOWING: ev.Shadow(bundle=ref(2)),
    S.ACTIVATING: ev.Activate(bundle=ref(2)),
    S.TRIAL: None,
    S.ROLLING_BACK: ev.FallBack(bundles=(ref(1),), shunned=frozenset({ref(2).sha256})),
}


def at(step: InstallStep) -> Journal:
    """A device that runs release 1 and is at `step` of installing release 2."""
    journal = played(committed(1), asked(2, 9))
    for here, event in ROAD:
        if here is step:
            return journal
        journal = played(journal, event)
    return journal


def test_the_road_from_a_request_to_a_rollback_does_and_says_each_step() -> None:
    decision = decide(committed(1), asked(2, 9))
    for step, event in [*ROAD, (S.ROLLING_BACK, None)]:
        assert decision.journal.step() is step
        assert decision.effect == WORK[step]
        (report,) = decision.reports
        assert (report.step, report.status, report.execution) == (step, Status.IN_PROGRESS, "e9")
        assert report.progress == 0.0
        active = ref(2) if step in {S.TRIAL, S.ROLLING_BACK} else ref(1)
        assert (decision.journal.active, report.active_release) == (active, active.release)
        if event is not None:
            decision = decide(decision.journal, event)
    assert decision.journal.attempt is not None
    assert decision.journal.attempt.baseline == Baseline(windows=9, latency_us=2.0, error_share=0.0)
    back = decide(decision.journal, ev.FellBack(bundle=ref(1), failure=None))
    assert (back.journal.active, back.journal.attempt, back.effect) == (ref(1), None, ev.Prune())
    (report,) = back.reports
    assert (report.step, report.status, report.reason) == (S.ROLLED_BACK, Status.ROLLED_BACK, "slow")
    assert report.active_release == "pump/1"


def test_a_trial_without_windows_is_deferred_once_and_neither_fails_nor_passes() -> None:
    silent = ev.TrialSilent(sha256=ref(2).sha256, silent_s=121.4)
    first = decide(at(S.TRIAL), silent)
    (report,) = first.reports
    assert (report.step, report.status) == (S.TRIAL, Status.DEFERRED)
    assert "no window could be judged for 121 s" in report.reason
    assert (first.effect, first.journal.active, first.journal.step()) == (None, ref(2), S.TRIAL)
    assert decide(first.journal, silent) == Decision(journal=first.journal), "said once"
    assert decide(at(S.TRIAL), ev.TrialSilent(sha256=ref(3).sha256, silent_s=1.0)).reports == ()
    passed = decide(first.journal, ev.TrialEnded(sha256=ref(2).sha256, failure=None))
    assert passed.reports[-1].status is Status.SUCCEEDED
    failed = decide(first.journal, ev.TrialEnded(sha256=ref(2).sha256, failure="slow"))
    assert (failed.reports[-1].status, failed.reports[-1].reason) == (Status.IN_PROGRESS, "slow")
    superseded = decide(first.journal, asked(3, first.journal.highest_counter + 1))
    assert (superseded.reports[0].status, superseded.journal.active) == (Status.CANCELED, ref(1))


def test_a_deferred_trial_stays_deferred_over_restarts_and_is_not_blamed_for_them() -> None:
    journal = decide(at(S.TRIAL), ev.TrialSilent(sha256=ref(2).sha256, silent_s=120.0)).journal
    for _ in range(10):
        restarted = decide(journal, ev.Restarted())
        (report,) = restarted.reports
        assert (report.step, report.status) == (S.TRIAL, Status.DEFERRED)
        again = decide(restarted.journal, ev.TrialSilent(sha256=ref(2).sha256, silent_s=120.0))
        assert again.reports == ()
        journal = again.journal
    for _ in range(3):  # without having run for long in between it is what ends the agent
        journal = decide(journal, ev.Restarted()).journal
        assert journal.step() is S.TRIAL
    assert decide(journal, ev.Restarted()).journal.step() is S.ROLLING_BACK


def test_a_trial_that_passes_is_committed_and_is_the_first_to_fall_back_to() -> None:
    decision = decide(at(S.TRIAL), ev.TrialEnded(sha256=ref(2).sha256, failure=None))
    journal = decision.journal
    assert (journal.active, journal.committed, journal.factory) == (ref(2), (ref(2), ref(1)), ref(1))
    assert (journal.attempt, decision.effect) == (None, ev.Prune())
    (report,) = decision.reports
    assert (report.step, report.status, report.progress) == (S.COMMITTED, Status.SUCCEEDED, 1.0)


def test_content_that_is_on_disk_or_proven_is_neither_fetched_nor_probed_nor_tried_again() -> None:
    twice = committed(1, 2)
    back = played(twice, asked(1, 9))
    assert decide(back, ev.Checked(is_on_disk=True)).journal.step() is S.VERIFYING
    staged = played(back, ev.Checked(is_on_disk=True), ev.Verified())
    activating = played(staged, ev.Staged())
    assert activating.step() is S.ACTIVATING
    done = decide(activating, ev.Opened(baseline=None))
    assert (done.journal.active, done.journal.committed, done.effect) == (
        ref(1),
        (ref(1), ref(2)),
        ev.Prune(),
    )
    assert done.reports[0].status is Status.SUCCEEDED


@pytest.mark.parametrize(
    ("step", "fits"),
    [
        (S.CHECKING, (ev.Checked,)),
        (S.DOWNLOADING, (ev.Downloaded,)),
        (S.VERIFYING, (ev.Verified,)),
        (S.STAGED, (ev.Staged,)),
        (S.PROBING, (ev.Probed,)),
        (S.SHADOWING, (ev.Shadowed,)),
        (S.ACTIVATING, (ev.Opened,)),
        (S.TRIAL, (ev.TrialEnded, ev.TrialSilent)),
        (S.ROLLING_BACK, ()),
    ],
)
def test_a_result_moves_only_the_step_that_waits_for_it(step: InstallStep, fits: tuple[type, ...]) -> None:
    journal = at(step)
    results: list[ev.Event] = [event for _, event in ROAD]
    for event in results:
        if not isinstance(event, fits):
            assert decide(journal, event) == Decision(journal=journal)
            assert decide(committed(1), event) == Decision(journal=committed(1))


@pytest.mark.parametrize("step", [S.TRIAL, S.ROLLING_BACK])
def test_only_a_verdict_ends_a_trial_and_only_a_fallback_a_rollback(step: InstallStep) -> None:
    stopped = ev.Stopped(step=S.FAILED, reason="x")
    assert decide(at(step), stopped) == Decision(journal=at(step))
    foreign = ev.TrialEnded(sha256=ref(3).sha256, failure="x")
    assert decide(at(step), foreign) == Decision(journal=at(step))


@pytest.mark.parametrize(
    ("end", "status"),
    [(S.REJECTED, Status.REJECTED), (S.FAILED, Status.FAILED), (S.TIMED_OUT, Status.TIMED_OUT)],
)
@pytest.mark.parametrize(
    "step", [S.CHECKING, S.DOWNLOADING, S.VERIFYING, S.STAGED, S.PROBING, S.SHADOWING, S.ACTIVATING]
)
def test_before_its_trial_a_release_can_be_given_up_with_a_reason(
    step: InstallStep, end: InstallStep, status: InstallStatus
) -> None:
    decision = decide(at(step), ev.Stopped(step=end, reason="because"))
    (report,) = decision.reports
    assert (report.step, report.status, report.reason) == (end, status, "because")
    assert report.progress == 0.0
    assert (decision.journal.attempt, decision.journal.active, decision.effect) == (None, ref(1), ev.Prune())


def test_a_newer_request_ends_the_one_under_way_and_an_untried_release_stops_at_once() -> None:
    for step, active in ((S.PROBING, ref(1)), (S.TRIAL, ref(1))):
        decision = decide(at(step), asked(3, 10))
        told = [(report.execution, report.step, report.status) for report in decision.reports]
        assert told == [
            ("e9", S.CANCELED, Status.CANCELED),
            ("e10", S.CHECKING, Status.IN_PROGRESS),
        ]
        assert decision.reports[0].reason == "superseded by desired state 10 (pump/3)"
        journal = decision.journal
        assert (journal.active, journal.highest_counter) == (active, 9), (
            "it counts once its bundle is verified"
        )
        assert journal.attempt == Attempt(desired=wanted(3, 10), step=S.CHECKING, fallback=active)


def test_a_device_whose_active_bundle_is_lost_falls_back_and_goes_on_with_what_it_was_doing() -> None:
    lost = ev.ActiveLost(reason="damaged")
    idle = decide(committed(1, 2), lost)
    assert (idle.journal, idle.effect) == (committed(1, 2), ev.FallBack(bundles=(ref(2), ref(1))))
    fell = decide(idle.journal, ev.FellBack(bundle=ref(1), failure=None))
    assert (fell.journal.active, fell.effect, fell.reports) == (ref(1), None, ())
    staged = at(S.STAGED)
    under_way = decide(staged, ev.FellBack(bundle=None, failure=None))
    assert under_way.journal.attempt is not None
    assert (under_way.journal.active, under_way.journal.attempt.fallback) == (None, None)
    assert (under_way.effect, under_way.reports[0].step) == (ev.Proceed(), S.STAGED)
    trial = decide(at(S.TRIAL), lost)
    assert trial.journal.attempt is not None
    assert (trial.journal.step(), trial.journal.attempt.reason) == (S.ROLLING_BACK, "damaged")


def test_a_rollback_to_nothing_is_said_with_both_reasons_until_something_runs() -> None:
    back = played(at(S.TRIAL), ev.TrialEnded(sha256=ref(2).sha256, failure="slow"))
    decision = decide(back, ev.FellBack(bundle=None, failure="all damaged"))
    (report,) = decision.reports
    assert (report.step, report.status) == (S.INCONSISTENT, Status.FAILED)
    assert report.reason == "slow; and nothing on this device could be run instead: all damaged"
    assert decision.journal.step() is S.INCONSISTENT
    assert replace(decision.journal, active=ref(1)).step() is S.IDLE
    assert played(decision.journal, asked(3, 10)).step() is S.CHECKING


def test_the_last_word_is_said_again_after_a_restart_and_only_the_last() -> None:
    decision = decide(committed(1, 2), ev.Restarted())
    assert (decision.effect, [report.execution for report in decision.reports]) == (ev.Prune(), ["e2"])


# --- beside the release that runs -----------------------------------------------------------------------------------------------


def test_what_came_of_shadowing_is_told_from_then_on_and_kept_with_the_outcome() -> None:
    decision = decide(at(S.SHADOWING), shadowed(2))
    (report,) = decision.reports
    assert (report.step, report.shadow) == (S.ACTIVATING, shadowed(2).report)
    done = played(
        decision.journal, ev.Opened(baseline=None), ev.TrialEnded(sha256=ref(2).sha256, failure=None)
    )
    assert done.outcomes[-1].shadow == shadowed(2).report
    assert msgspec.json.decode(msgspec.json.encode(done), type=Journal) == done


def test_a_candidate_that_is_refused_beside_the_champion_never_becomes_active() -> None:
    decision = decide(at(S.SHADOWING), shadowed(2, ShadowOutcome.REFUSED))
    (report,) = decision.reports
    assert (report.step, report.status) == (S.REJECTED, Status.REJECTED)
    assert report.reason == "refused beside the release that runs: because"
    assert report.shadow == shadowed(2, ShadowOutcome.REFUSED).report
    assert (decision.journal.active, decision.journal.attempt) == (ref(1), None)


@pytest.mark.parametrize("outcome", [ShadowOutcome.INCONCLUSIVE, ShadowOutcome.SKIPPED, ShadowOutcome.PASSED])
def test_without_a_refusal_the_installation_goes_on(outcome: ShadowOutcome) -> None:
    assert decide(at(S.SHADOWING), shadowed(2, outcome)).journal.step() is S.ACTIVATING


def test_a_first_release_has_nothing_beside_it_and_says_so() -> None:
    probing = played(Journal(), asked(2, 9), ev.Checked(is_on_disk=True), ev.Verified(), ev.Staged())
    (report,) = decide(probing, ev.Probed()).reports
    assert (report.step, report.shadow) == (
        S.ACTIVATING,
        ShadowReport(outcome=ShadowOutcome.SKIPPED, note="nothing runs here to compare it with"),
    )


def test_a_comparison_that_waits_is_deferred_once_over_restarts_and_goes_on_by_itself() -> None:
    waits = ev.ShadowWaits(sha256=ref(2).sha256, reason="an anomaly goes on")
    decision = decide(at(S.SHADOWING), waits)
    (report,) = decision.reports
    assert (report.step, report.status, report.reason) == (S.SHADOWING, Status.DEFERRED, "an anomaly goes on")
    restarted = decide(decision.journal, ev.Restarted())
    assert (restarted.effect, restarted.reports[0].status) == (WORK[S.SHADOWING], Status.DEFERRED)
    assert decide(restarted.journal, waits).reports == ()
    (report,) = decide(restarted.journal, shadowed(2)).reports
    assert (report.step, report.status, report.reason) == (S.ACTIVATING, Status.IN_PROGRESS, "")


def test_the_comparison_of_another_bundle_says_nothing() -> None:
    for event in (shadowed(3), ev.ShadowWaits(sha256=ref(3).sha256, reason="x")):
        assert decide(at(S.SHADOWING), event) == Decision(journal=at(S.SHADOWING))


def test_a_sham_activates_what_runs_once_more_and_tries_it_like_a_new_release() -> None:
    decision = decide(committed(1), ev.Reactivate(execution="sham-7"))
    (report,) = decision.reports
    assert (report.execution, report.release, report.step) == ("sham-7", "pump/1", S.ACTIVATING)
    assert decision.effect == ev.Activate(bundle=ref(1))
    trial = decide(decision.journal, ev.Opened(baseline=None))
    assert trial.journal.step() is S.TRIAL
    done = decide(trial.journal, ev.TrialEnded(sha256=ref(1).sha256, failure=None))
    assert (done.reports[0].execution, done.reports[0].status) == ("sham-7", Status.SUCCEEDED)
    assert (done.journal.active, done.journal.committed) == (ref(1), (ref(1),))
    failed = decide(trial.journal, ev.TrialEnded(sha256=ref(1).sha256, failure="slow"))
    assert failed.effect == ev.FallBack(bundles=(ref(1),)), "what ran before is the same bundle"
    for journal in (Journal(), at(S.PROBING)):
        assert decide(journal, ev.Reactivate(execution="x")).journal == journal


# --- what is kept ------------------------------------------------------------------------------------------------------------


def test_two_committed_bundles_the_first_one_and_eight_outcomes_are_kept() -> None:
    journal = committed(*range(1, 11))
    assert journal.committed == (ref(10), ref(9))
    assert journal.factory == ref(1)
    assert journal.fallbacks() == (ref(10), ref(9), ref(1))
    assert journal.kept() == {ref(n).sha256 for n in (10, 9, 1)}
    assert [outcome.execution for outcome in journal.outcomes] == [f"e{n}" for n in range(3, 11)]


def test_during_an_installation_its_bundle_and_its_fallback_stay_too() -> None:
    journal = played(committed(1, 2, 3), asked(4, 9))
    assert journal.kept() == {ref(n).sha256 for n in (1, 2, 3, 4)}
    assert journal.fallbacks()[0] == ref(3)
    assert all(journal.has_proven(ref(n).sha256) for n in (1, 2, 3))
    assert not journal.has_proven(ref(4).sha256)
    assert not Journal().has_proven(ref(1).sha256)


def test_a_repeated_execution_has_one_outcome_the_last() -> None:
    old, new = (report_of("e1", counter) for counter in (1, 2))
    assert Journal(outcomes=(old, new)).outcome_of("e1") == new
    assert Journal(outcomes=(old,)).outcome_of("e2") is None
    ended = played(
        Journal(outcomes=(old, report_of("e5", 1))),
        ev.Asked(desired=replace(wanted(2, 9), execution="e1")),
        ev.Stopped(step=S.FAILED, reason="x"),
    )
    assert [(outcome.execution, outcome.counter) for outcome in ended.outcomes] == [("e5", 1), ("e1", 9)]


def report_of(execution: str, counter: int) -> InstallReport:
    return InstallReport(
        execution=execution, release="pump/1", counter=counter, step=S.COMMITTED, status=Status.SUCCEEDED
    )


def test_a_reason_is_cut_at_two_thousand_characters() -> None:
    report = Journal().report(wanted(1), S.FAILED, Status.FAILED, reason="x" * 2001)
    assert (len(report.reason), report.active_release) == (2000, None)


# --- what is new, repeated, lost or stale -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("journal", "desired", "what"),
    [
        (Journal(), wanted(1, 1), Novelty.NEW),
        (committed(1), wanted(1, 2), Novelty.NEW),  # the counter decides, not the version
        (committed(1, 2), wanted(1, 3), Novelty.NEW),
        (committed(1), wanted(1, 1), Novelty.ANSWERED),
        (committed(1, 2), wanted(1, 1), Novelty.ANSWERED),
        (committed(1), wanted(2, 1), Novelty.STALE),  # the same counter for another release
        (committed(1), replace(wanted(1, 1), execution="other"), Novelty.STALE),
        (committed(1, 2), replace(wanted(1, 1), counter=2), Novelty.STALE),
        (replace(committed(1), active=None), wanted(1, 1), Novelty.LOST),
        (replace(committed(1), active=ref(7)), wanted(1, 1), Novelty.LOST),
        (
            replace(committed(1, 2), active=None),
            wanted(1, 1),
            Novelty.ANSWERED,
        ),  # a newer one was accepted since
        (at(S.PROBING), wanted(2, 9), Novelty.RUNNING),
        (at(S.PROBING), wanted(2, 8), Novelty.STALE),
        (at(S.PROBING), wanted(1, 1), Novelty.ANSWERED),
    ],
)
def test_a_desired_state_is_compared_with_those_before(
    journal: Journal, desired: DesiredState, what: Novelty
) -> None:
    assert novelty(journal, desired) is what


def test_a_failed_installation_is_answered_again_and_not_begun_again() -> None:
    failed = played(committed(1), asked(2, 9), ev.Stopped(step=S.FAILED, reason="x"))
    decision = decide(failed, asked(2, 9))
    assert (decision.journal, decision.effect, decision.reports) == (failed, None, failed.outcomes[-1:])


def test_a_stale_request_is_refused_with_the_counter_that_was_accepted_and_disturbs_nothing() -> None:
    decision = decide(at(S.PROBING), asked(2, 5))
    (report,) = decision.reports
    assert (report.step, report.status) == (S.REJECTED, Status.REJECTED)
    assert report.reason == "desired state 5 (pump/2) is not newer than 9, which this device has accepted"
    assert (decision.journal, decision.effect) == (at(S.PROBING), WORK[S.PROBING])


def test_a_lost_release_is_installed_again_without_lowering_the_counter() -> None:
    lost = replace(committed(1), active=None, highest_counter=1)
    decision = decide(lost, asked(1, 1))
    assert decision.journal.attempt == Attempt(desired=wanted(1, 1), step=S.CHECKING, fallback=None)
    assert decision.journal.highest_counter == 1


# --- what fits this device ----------------------------------------------------------------------------------------------------


MANIFEST: Manifest = peek_manifest(make_bundle(2))


def test_a_request_for_another_family_or_without_a_release_is_refused() -> None:
    check_request(wanted(2), REQUIREMENTS)
    with pytest.raises(ReleaseRefusedError, match="family 'fan'; this device runs family 'pump'"):
        check_request(replace(wanted(2), release="fan/2"), REQUIREMENTS)
    with pytest.raises(ReleaseRefusedError, match="not of the form family/version"):
        check_request(replace(wanted(2), release="pump"), REQUIREMENTS)


def test_a_release_must_be_the_one_asked_for_and_agree_with_itself() -> None:
    check_fit(MANIFEST, "pump/2", REQUIREMENTS)
    with pytest.raises(ReleaseRefusedError, match="holds release pump/2, but pump/3 was asked for"):
        check_fit(MANIFEST, "pump/3", REQUIREMENTS)
    narrow = replace(MANIFEST, features=replace(FEATURES, names=("a", "b", "c")))
    with pytest.raises(ReleaseRefusedError, match="takes 4 inputs, but its manifest names 3 features"):
        check_fit(narrow, "pump/2", Requirements(family="pump"))


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        ({"channels": 3}, "channels 4 there, 3 here"),
        ({"window_samples": 2}, "window_samples 1 there, 2 here"),
        ({"sample_rate_hz": 50.0}, "sample_rate_hz None there, 50.0 here"),
        ({"names": ("a", "b", "c", "e")}, "'d' is missing here, 'e' is new here$"),
        ({"names": ("b", "a", "c", "d")}, "'a', 'b' have moved"),
        (
            {"names": ("p", "q", "r", "s")},
            "'a', 'b', 'c' and 1 more are missing here, 'p', 'q', 'r' and 1 more are new here$",
        ),
        ({"names": ("a",)}, "'b', 'c', 'd' are missing here"),
    ],
)
def test_a_source_that_gives_other_features_cannot_feed_the_release(ours: dict, words: str) -> None:
    requirements = replace(REQUIREMENTS, features=replace(FEATURES, **ours))
    with pytest.raises(ReleaseRefusedError, match=words):
        check_fit(MANIFEST, "pump/2", requirements)


def test_a_device_without_a_description_of_its_own_takes_the_releases() -> None:
    check_fit(MANIFEST, "pump/2", replace(REQUIREMENTS, features=None))


# --- what wakes the worker, and what a device begins with ------------------------------------------------------------------------


def test_an_inbox_hands_out_events_in_order_until_it_is_closed_and_nothing_after() -> None:
    inbox = Inbox(clock=lambda: 7.0, jitter=lambda: 0.25)
    assert (inbox.take(is_blocking=False), inbox.now(), inbox.jitter()) == (None, 7.0, 0.25)
    for event in (ev.Probed(), asked(1)):
        inbox.put(event)
    assert inbox.is_interrupted(), "a request waits behind a result"
    assert inbox.take(is_blocking=True) == ev.Probed()
    assert inbox.take(is_blocking=False) == asked(1)
    assert not inbox.is_interrupted()
    inbox.put(ev.Probed())
    assert not inbox.is_interrupted(), "a result interrupts nothing"
    inbox.close()
    assert inbox.is_interrupted()
    assert inbox.take(is_blocking=True) is None, "who is closed begins nothing more"
    inbox.wait(3600.0)  # returns at once
