"""What installing remembers, what counts as new, and what fits this device: rules one by one, without a disk."""

from __future__ import annotations

import pytest
from installation_rules_world import WORK, asked, at, committed, played, ref, wanted
from installation_world import FEATURES, REQUIREMENTS, make_bundle
from msgspec.structs import replace

from edge_agent.errors import ReleaseRefusedError
from edge_agent.installation import events as ev
from edge_agent.installation.acceptance import Novelty, Requirements, check_fit, check_request, novelty
from edge_agent.installation.inbox import Inbox
from edge_agent.installation.journal import Attempt, Journal
from edge_agent.installation.transitions import decide
from protocol.bundle import peek_manifest
from protocol.manifest import Manifest
from protocol.messages.kinds import InstallStatus as Status
from protocol.messages.kinds import InstallStep as S
from protocol.messages.payloads import DesiredState, InstallReport

pytestmark = pytest.mark.edge


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


def test_a_stale_request_disturbs_nothing_and_no_report_speaks_of_it() -> None:
    decision = decide(at(S.PROBING), asked(2, 5))
    assert decision.reports == ()
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
    manifest = replace(MANIFEST, features=replace(FEATURES, names=("p", "q", "r", "s")))
    with pytest.raises(ReleaseRefusedError):
        check_fit(manifest, "pump/2", REQUIREMENTS)
    check_fit(manifest, "pump/2", replace(REQUIREMENTS, features=None))


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
