"""The pure parts: transitions under any order of events, the rules of acceptance, and the verdict of a trial."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from installation_world import REQUIREMENTS, ask

from edge_agent.errors import InstallFailedError
from edge_agent.installation import events as ev
from edge_agent.installation.acceptance import check_space
from edge_agent.installation.journal import KEPT_COMMITTED, KEPT_OUTCOMES, Baseline, Journal
from edge_agent.installation.transitions import MAXIMUM_STARTS, decide
from edge_agent.installation.trial import Failed, Passed, Trial, TrialLimits, WindowRecord
from protocol.messages.kinds import InstallStatus, InstallStep, ShadowOutcome
from protocol.messages.payloads import ShadowReport

pytestmark = pytest.mark.edge

CONTENTS = [bytes([n]) for n in range(4)]
FINAL = {
    InstallStatus.SUCCEEDED,
    InstallStatus.FAILED,
    InstallStatus.REJECTED,
    InstallStatus.TIMED_OUT,
    InstallStatus.CANCELED,
    InstallStatus.ROLLED_BACK,
}

RESULTS = st.sampled_from(
    [
        ev.Checked(is_on_disk=False),
        ev.Checked(is_on_disk=True),
        ev.Downloaded(),
        ev.Verified(),
        ev.Staged(),
        ev.Probed(),
        ev.Opened(baseline=None),
        ev.Stopped(step=InstallStep.FAILED, reason="x"),
        ev.Stopped(step=InstallStep.REJECTED, reason="x"),
        ev.Restarted(),
        "passed",
        "failed",
        "silent",
        "shadowed",
        "refused beside",
        "shadow waits",
        ev.Reactivate(execution="sham"),
        "fell back",
        "nothing opens",
        "lost",
    ]
)
REQUESTS = st.tuples(st.integers(0, 3), st.integers(1, 9)).map(
    lambda pair: ev.Asked(desired=ask(CONTENTS[pair[0]], pair[0] + 1, pair[1]))
)
# Mostly the event that the present step waits for, so that walks go deep; sometimes any other.
WALKS = st.lists(st.one_of(st.just("next"), st.just("next"), RESULTS, REQUESTS), max_size=60)

NEXT = {
    InstallStep.CHECKING: ev.Checked(is_on_disk=False),
    InstallStep.DOWNLOADING: ev.Downloaded(),
    InstallStep.VERIFYING: ev.Verified(),
    InstallStep.STAGED: ev.Staged(),
    InstallStep.PROBING: ev.Probed(),
    InstallStep.SHADOWING: "shadowed",
    InstallStep.ACTIVATING: ev.Opened(baseline=None),
    InstallStep.TRIAL: "passed",
    InstallStep.ROLLING_BACK: "fell back",
}


def concrete(name: object, journal: Journal) -> ev.Event:  # noqa: PLR0911 - a word, an event
    """The event that a word of a walk means in this journal."""
    if name == "next":
        name = NEXT.get(journal.step(), ev.Asked(desired=ask(CONTENTS[0], 1, journal.highest_counter + 1)))
    attempt = journal.attempt
    sha256 = attempt.bundle.sha256 if attempt else ""
    fallbacks = journal.fallbacks()
    match name:
        case "passed" | "failed":
            return ev.TrialEnded(sha256=sha256, failure=None if name == "passed" else "x")
        case "shadowed" | "refused beside":
            outcome = ShadowOutcome.PASSED if name == "shadowed" else ShadowOutcome.REFUSED
            return ev.Shadowed(sha256=sha256, report=ShadowReport(outcome=outcome))
        case "shadow waits":
            return ev.ShadowWaits(sha256=sha256, reason="x")
        case "silent":
            return ev.TrialSilent(sha256=sha256, silent_s=120.0)
        case "fell back":
            return ev.FellBack(bundle=fallbacks[0] if fallbacks else None, failure=None)
        case "nothing opens":
            return ev.FellBack(bundle=None, failure="x")
        case "lost":
            return ev.ActiveLost(reason="x")
        case _:
            return name  # type: ignore[return-value]  # the other words are events


@given(WALKS)
def test_whatever_happens_only_verified_content_becomes_active_and_nothing_is_run_too_often(
    walk: list[object],
) -> None:
    journal, verified = Journal(), set[str]()
    for word in walk:
        event = concrete(word, journal)
        before = journal
        if isinstance(event, ev.Verified) and before.step() is InstallStep.VERIFYING and before.attempt:
            verified.add(before.attempt.bundle.sha256)
        decision = decide(journal, event)
        journal = decision.journal
        assert journal.highest_counter >= before.highest_counter
        assert len(journal.committed) <= KEPT_COMMITTED
        assert len(journal.outcomes) <= KEPT_OUTCOMES
        assert journal.active is None or journal.active.sha256 in verified
        assert journal.attempt is None or journal.attempt.starts <= MAXIMUM_STARTS
        if before.attempt is not None and journal.attempt is None:
            assert any(
                r.execution == before.attempt.desired.execution and r.status in FINAL
                for r in decision.reports
            )
        if journal.active != before.active and journal.active is not None and journal.attempt is not None:
            assert journal.step() is InstallStep.TRIAL or not isinstance(event, ev.Opened)
        # The same event again must never move a journal backwards or break it.
        assert decide(journal, ev.Restarted()).journal.highest_counter == journal.highest_counter


@given(WALKS)
def test_from_any_point_the_expected_events_lead_to_an_end(walk: list[object]) -> None:
    journal = Journal()
    for word in walk:
        journal = decide(journal, concrete(word, journal)).journal
    for _ in range(len(NEXT)):
        if journal.attempt is None:
            break
        journal = decide(journal, concrete("next", journal)).journal
    assert journal.attempt is None


def test_a_result_that_comes_too_late_changes_nothing() -> None:
    journal = decide(Journal(), ev.Asked(desired=ask(b"a", 1))).journal
    for late in (ev.Probed(), ev.Verified(), ev.TrialEnded(sha256="0" * 64, failure=None)):
        assert decide(journal, late).journal == journal


def test_a_probe_that_always_takes_the_device_down_is_given_up() -> None:
    journal = Journal()
    for event in (ev.Asked(desired=ask(b"a", 1)), ev.Checked(is_on_disk=True), ev.Verified(), ev.Staged()):
        journal = decide(journal, event).journal
    assert journal.step() is InstallStep.PROBING
    for _ in range(MAXIMUM_STARTS - 1):
        journal = decide(journal, ev.Restarted()).journal
        assert journal.step() is InstallStep.PROBING
    [report] = decide(journal, ev.Restarted()).reports
    assert (report.step, report.reason) == (
        InstallStep.FAILED,
        "the agent ended 3 times during PROBING of pump/1",
    )


def test_space_is_refused_at_the_last_byte_of_the_reserve() -> None:
    check_space(100, 100 + REQUIREMENTS.reserve_bytes, REQUIREMENTS)
    with pytest.raises(
        InstallFailedError, match="the release needs 101 bytes and 1000 stay reserved, but 1100 are free"
    ):
        check_space(101, 100 + REQUIREMENTS.reserve_bytes, REQUIREMENTS)


LIMITS = TrialLimits(windows=3)


def judge(windows: list[tuple[float | None, float, str | None]], baseline: Baseline | None = None) -> object:
    trial = Trial(LIMITS, baseline)
    verdicts = [verdict for window in windows if (verdict := trial.observe(*window)) is not None]
    return verdicts[0] if verdicts else None


def test_a_trial_passes_after_its_windows_and_not_before() -> None:
    assert judge([(0.1, 10.0, None)] * 2) is None
    assert judge([(0.1, 10.0, None)] * 3) == Passed()


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, None])
def test_a_score_that_is_no_number_fails_the_trial(score: float | None) -> None:
    verdict = judge([(score, 10.0, None)])
    assert isinstance(verdict, Failed)
    assert f"the model gave the score {score}; a score is a finite number" in verdict.reason


def test_a_fault_that_was_there_before_is_not_blamed_on_the_release() -> None:
    faulty = Baseline(windows=20, latency_us=10.0, error_share=0.3)
    assert judge([(None, 10.0, "sensor torn off")] * 10, faulty) is None
    assert judge([(None, 10.0, "sensor torn off"), *[(0.1, 10.0, None)] * 3], faulty) == Passed()


def test_a_release_that_is_much_slower_than_the_one_before_fails() -> None:
    before = Baseline(windows=20, latency_us=1000.0, error_share=0.0)
    assert judge([(0.1, 5000.0, None)] * 3, before) == Passed(), "at the limit"
    verdict = judge([(0.1, 5001.0, None)] * 3, before)
    assert verdict == Failed(
        reason="median inference time 5001 µs, 1000 µs before it; at most 5000 µs is allowed"
    )
    assert judge([(0.1, 5.0, None), (0.1, 9e9, None), (0.1, 5.0, None)], before) == Passed(), (
        "one outlier is nothing"
    )


def test_without_a_release_before_only_the_absolute_limit_holds() -> None:
    assert judge([(0.1, 200_000.0, None)] * 3) == Passed()
    assert isinstance(judge([(0.1, 300_000.0, None)] * 3), Failed)


def test_the_record_gives_the_median_of_windows_that_worked() -> None:
    record = WindowRecord(size=4)
    assert record.baseline() is None
    for latency_us, has_failed in [(99.0, False), (1.0, False), (500.0, True), (3.0, False), (2.0, False)]:
        record.add(latency_us, has_failed=has_failed)
    assert record.baseline() == Baseline(windows=3, latency_us=2.0, error_share=0.25)
    record.clear()
    assert record.baseline() is None
