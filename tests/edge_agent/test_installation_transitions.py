"""Every arrow of the drawing in `transitions`: what it begins and what is told, beside the release that runs too."""

from __future__ import annotations

import msgspec
import pytest
from installation_rules_world import (
    ROAD,
    WORK,
    asked,
    at,
    committed,
    committed_after,
    played,
    ref,
    shadowed,
    wanted,
)
from msgspec.structs import replace

from edge_agent.installation import events as ev
from edge_agent.installation.journal import Attempt, Baseline, Journal
from edge_agent.installation.transitions import Decision, decide
from protocol.messages.kinds import InstallStatus, InstallStep, ShadowOutcome
from protocol.messages.kinds import InstallStatus as Status
from protocol.messages.kinds import InstallStep as S
from protocol.messages.payloads import ShadowReport

pytestmark = pytest.mark.edge


# --- every arrow of the drawing, with the work it begins and the word it sends ------------------------------------------------


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
        assert (journal.active, journal.highest_counter) == (active, 10)
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
    assert isinstance(decision.effect, ev.Activate)
    assert (decision.effect.desired.release, decision.effect.is_proven) == ("pump/1", True)
    trial = decide(decision.journal, ev.Opened(baseline=None))
    assert trial.journal.step() is S.TRIAL
    done = decide(trial.journal, ev.TrialEnded(sha256=ref(1).sha256, failure=None))
    assert (done.reports[0].execution, done.reports[0].status) == ("sham-7", Status.SUCCEEDED)
    assert (done.journal.active, done.journal.committed) == (ref(1), (ref(1),))
    failed = decide(trial.journal, ev.TrialEnded(sha256=ref(1).sha256, failure="slow"))
    assert failed.effect == ev.FallBack(bundles=(ref(1),)), "what ran before is the same bundle"
    for journal in (Journal(), at(S.PROBING)):
        assert decide(journal, ev.Reactivate(execution="x")).journal == journal


def test_what_a_person_approved_is_remembered_and_kept_on_the_disk_also_after_the_installation() -> None:
    journal = committed(1, 2)
    assert journal.approved is None
    late = ev.Asked(desired=replace(wanted(2, 2), is_approved=True))
    journal = played(journal, late)
    assert journal.approved == ref(2), "the same wish as before, answered long ago"
    later = committed_after(journal, 3, 4, 5)
    assert later.approved == ref(2)
    assert ref(2).sha256 in later.kept()
