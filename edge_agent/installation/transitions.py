"""The decisions of an installation: journal + event → new journal, what to do next, what to tell the fleet.

Pure: no clock, no disk, no thread. Whoever performs an effect writes the new journal first, so that a kill at any
point is met by `Restarted` with a journal that says which work was begun.

::

    Asked ─► CHECKING ─► DOWNLOADING ─► VERIFYING ─► STAGED ─► PROBING ─► SHADOWING ─► ACTIVATING ─► TRIAL ─► COMMITTED
                 └── already on disk ─────┘             │         └ nothing runs ────────┘ │            │
                                                        └── proven here ──────────────────►┴───────────►┘
    any step before TRIAL ─► REJECTED | FAILED | TIMED_OUT | CANCELED (a newer request)
    DOWNLOADING, SHADOWING, TRIAL ─► the same, deferred (no time to fetch, no window to judge): it neither fails nor passes by waiting
    Reactivate ─► ACTIVATING ─► TRIAL: what runs is activated once more, and tried although it is proven
    TRIAL ─► ROLLING_BACK ─► ROLLED_BACK | INCONSISTENT (nothing on disk can be run)

Invariants: the active bundle changes only in TRIAL, COMMITTED (of a proven bundle), ROLLED_BACK, INCONSISTENT, CANCELED of a
trial, and recovery; it never names an unverified bundle; content that is not committed is begun at most `MAXIMUM_STARTS` times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from msgspec.structs import replace

from edge_agent.installation.acceptance import Novelty, novelty
from edge_agent.installation.events import (
    ActiveLost,
    Asked,
    Checked,
    Closing,
    Downloaded,
    Effect,
    Event,
    FellBack,
    FetchWaits,
    ListChanged,
    Opened,
    Probed,
    Prune,
    Reactivate,
    Restarted,
    Shadowed,
    ShadowWaits,
    Staged,
    Stopped,
    TrialEnded,
    TrialSilent,
    Verified,
)
from edge_agent.installation.journal import (
    KEPT_COMMITTED,
    KEPT_OUTCOMES,
    Attempt,
    Baseline,
    BundleRef,
    Journal,
)
from edge_agent.installation.works import fall_back, progress, work_of
from edge_agent.word_order import FARTHEST_LEAP
from protocol.messages.kinds import InstallStatus, InstallStep, ShadowOutcome
from protocol.messages.payloads import DesiredState, InstallReport, ShadowReport

__all__ = ["MAXIMUM_STARTS", "Decision", "decide"]

MAXIMUM_STARTS: Final = 3
"""How often content that never proved itself may be run: once, and twice more for power cuts that were not its fault."""

_RUNS_CONTENT: Final = frozenset(
    {InstallStep.PROBING, InstallStep.SHADOWING, InstallStep.ACTIVATING, InstallStep.TRIAL}
)
_NOT_STOPPED: Final = frozenset({InstallStep.TRIAL, InstallStep.ROLLING_BACK})


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What follows from an event.

    Attributes:
        journal: to be written durably before anything else happens.
        effect: what to do then; None: wait.
        reports: what to tell the fleet.
    """

    journal: Journal
    effect: Effect | None = None
    reports: tuple[InstallReport, ...] = ()


def decide(journal: Journal, event: Event) -> Decision:
    """Decide what follows; an event that does not fit the present step changes nothing."""
    match event:
        case Asked():
            decision = _asked(journal, event)
        case Restarted():
            decision = _restarted(journal)
        case Closing():
            decision = _closing(journal)
        case ActiveLost(reason=reason):
            decision = _active_lost(journal, reason)
        case FellBack():
            decision = _fell_back(journal, event)
        case ListChanged():
            is_idle = journal.active is None and journal.attempt is None
            decision = Decision(journal=journal, effect=fall_back(journal) if is_idle else None)
        case Reactivate(execution=execution):
            decision = _reactivate(journal, execution)
        case _ if journal.attempt is not None:
            decision = _under_way(journal, journal.attempt, event)
        case _:
            decision = Decision(journal=journal)
    return decision


def _asked(journal: Journal, asked: Asked) -> Decision:
    desired = asked.desired
    journal = _with_approval(journal, desired)
    match novelty(journal, desired):
        case Novelty.RUNNING:
            return Decision(journal=journal, effect=work_of(journal), reports=progress(journal))
        case Novelty.ANSWERED:
            answer = journal.outcome_of(desired.execution)
            reports = () if answer is None else (answer,)
            return Decision(journal=journal, effect=work_of(journal), reports=reports)
        case Novelty.STALE:
            # no report: it would speak of an execution that may have ended otherwise (`Installer.submit` tells the fleet)
            return Decision(journal=journal, effect=work_of(journal))
        case Novelty.FAR:
            refusal = journal.report(
                desired,
                InstallStep.REJECTED,
                InstallStatus.REJECTED,
                reason=f"desired state {desired.counter} ({desired.release}) is more than {FARTHEST_LEAP} ahead of"
                f" {journal.highest_counter}, which this device has accepted",
            )
            return Decision(journal=journal, effect=work_of(journal), reports=(refusal,))
        case Novelty.NEW | Novelty.LOST:
            return _begin(journal, desired)
        case unknown:
            assert_never(unknown)


def _with_approval(journal: Journal, desired: DesiredState) -> Journal:
    """What a person approved is noted, also long after it was installed; an older word says nothing of it any more."""
    if not desired.is_approved or not 0 <= desired.counter - journal.highest_counter <= FARTHEST_LEAP:
        return journal
    return replace(journal, approved=BundleRef(release=desired.release, sha256=desired.bundle_sha256))


def _begin(journal: Journal, desired: DesiredState) -> Decision:
    reports: tuple[InstallReport, ...] = ()
    if (attempt := journal.attempt) is not None:
        # Content that never proved itself must not outlive its trial, not even while the next release is fetched.
        active = attempt.fallback if attempt.step is InstallStep.TRIAL else journal.active
        journal, reports = _close(
            replace(journal, active=active),
            attempt,
            InstallStep.CANCELED,
            InstallStatus.CANCELED,
            reason=f"superseded by desired state {desired.counter} ({desired.release})",
        )
    journal = replace(
        journal,
        highest_counter=desired.counter,
        attempt=Attempt(desired=desired, step=InstallStep.CHECKING, fallback=journal.active),
    )
    return Decision(journal=journal, effect=work_of(journal), reports=(*reports, *progress(journal)))


def _restarted(journal: Journal) -> Decision:
    attempt = journal.attempt
    if attempt is None:
        # The last word may have been lost between the journal and the outbox; saying it twice does no harm.
        return Decision(journal=journal, effect=Prune(), reports=journal.outcomes[-1:])
    if attempt.step not in _RUNS_CONTENT:
        return Decision(journal=journal, effect=work_of(journal), reports=progress(journal))
    if attempt.starts >= MAXIMUM_STARTS:
        reason = (
            f"the agent ended {attempt.starts} times during {attempt.step.value} of {attempt.desired.release}"
        )
        if attempt.step is InstallStep.TRIAL:
            return _roll_back(journal, attempt, reason)
        return _stop(journal, attempt, InstallStep.FAILED, reason)
    journal = replace(journal, attempt=replace(attempt, starts=attempt.starts + 1))
    return Decision(journal=journal, effect=work_of(journal), reports=progress(journal))


def _closing(journal: Journal) -> Decision:
    attempt = journal.attempt
    if attempt is None or attempt.starts == 0:
        return Decision(journal=journal)
    return Decision(journal=replace(journal, attempt=replace(attempt, starts=attempt.starts - 1)))


def _active_lost(journal: Journal, reason: str) -> Decision:
    attempt = journal.attempt
    if attempt is not None and attempt.step is InstallStep.TRIAL:
        return _roll_back(journal, attempt, reason)
    return Decision(journal=journal, effect=fall_back(journal))


def _fell_back(journal: Journal, fell: FellBack) -> Decision:
    attempt, bundle = journal.attempt, fell.bundle
    journal = replace(journal, active=bundle)
    if bundle is not None and not fell.found_bytes and not journal.has_proven(bundle.sha256):
        journal = replace(journal, factory=bundle)  # the image brought another one than it did
    if attempt is None or attempt.step is not InstallStep.ROLLING_BACK:
        if attempt is not None:
            journal = replace(journal, attempt=replace(attempt, fallback=bundle))
        elif bundle is not None and fell.found_bytes:
            journal = journal.trying(bundle, fell.found_bytes)
        return Decision(journal=journal, effect=work_of(journal), reports=progress(journal))
    step, status, reason = InstallStep.ROLLED_BACK, InstallStatus.ROLLED_BACK, attempt.reason
    if fell.failure is not None:
        step, status = InstallStep.INCONSISTENT, InstallStatus.FAILED
        reason = f"{reason}; and nothing on this device could be run instead: {fell.failure}"
    journal, reports = _close(journal, attempt, step, status, reason=reason)
    if bundle is not None and fell.found_bytes:
        journal = journal.trying(bundle, fell.found_bytes)
    return Decision(journal=journal, effect=Prune(), reports=(*reports, *progress(journal)))


def _under_way(journal: Journal, attempt: Attempt, event: Event) -> Decision:
    decision = Decision(journal=journal)
    match attempt.step, event:
        case InstallStep.CHECKING, Checked(is_on_disk=is_on_disk):
            step = InstallStep.VERIFYING if is_on_disk else InstallStep.DOWNLOADING
            decision = _enter(journal, attempt, step)
        case InstallStep.DOWNLOADING, Downloaded() | FetchWaits():
            decision = _fetched(journal, attempt, event)
        case InstallStep.VERIFYING, Verified():
            decision = _enter(journal, attempt, InstallStep.STAGED)
        case InstallStep.STAGED, Staged():
            is_proven = journal.has_proven(attempt.bundle.sha256)
            step = InstallStep.ACTIVATING if is_proven else InstallStep.PROBING
            decision = _enter(journal, attempt, step)
        case InstallStep.PROBING, Probed():
            decision = _probed(journal, attempt)
        case InstallStep.SHADOWING, Shadowed() | ShadowWaits():
            if event.sha256 == attempt.bundle.sha256:
                decision = _shadowed(journal, attempt, event)
        case InstallStep.ACTIVATING, Opened(baseline=baseline):
            decision = _opened(journal, attempt, baseline)
        case InstallStep.TRIAL, TrialEnded() | TrialSilent():
            if event.sha256 == attempt.bundle.sha256:
                decision = _tried(journal, attempt, event)
        # Only a verdict ends a trial, and only FellBack a rollback.
        case here, Stopped(step=step, reason=reason) if here not in _NOT_STOPPED:
            decision = _stop(journal, attempt, step, reason)
        case _:
            pass  # the result of work that a newer request has made void
    return decision


def _fetched(journal: Journal, attempt: Attempt, event: Downloaded | FetchWaits) -> Decision:
    if isinstance(event, Downloaded):
        return _enter(journal, attempt, InstallStep.VERIFYING)
    waits = _defer(journal, attempt, event.reason)
    return Decision(journal=waits.journal, effect=work_of(waits.journal), reports=waits.reports)


def _probed(journal: Journal, attempt: Attempt) -> Decision:
    if journal.active is not None:
        return _enter(journal, attempt, InstallStep.SHADOWING)
    report = ShadowReport(outcome=ShadowOutcome.SKIPPED, note="nothing runs here to compare it with")
    return _enter(journal, replace(attempt, shadow=report), InstallStep.ACTIVATING)


def _shadowed(journal: Journal, attempt: Attempt, event: Shadowed | ShadowWaits) -> Decision:
    if isinstance(event, ShadowWaits):
        return _defer(journal, attempt, event.reason)
    attempt = replace(attempt, shadow=event.report)
    if event.report.outcome is ShadowOutcome.REFUSED:
        journal = replace(journal, attempt=attempt)
        return _stop(
            journal,
            attempt,
            InstallStep.REJECTED,
            f"refused beside the release that runs: {event.report.note}",
        )
    return _enter(journal, attempt, InstallStep.ACTIVATING)


def _reactivate(journal: Journal, execution: str) -> Decision:
    if journal.active is None or journal.attempt is not None:
        return Decision(journal=journal, effect=work_of(journal))
    journal = journal.reactivating(execution, journal.active)
    return Decision(journal=journal, effect=work_of(journal), reports=progress(journal))


def _opened(journal: Journal, attempt: Attempt, baseline: Baseline | None) -> Decision:
    journal = replace(journal, active=attempt.bundle)
    if journal.has_proven(attempt.bundle.sha256) and not attempt.is_sham:
        return _commit(journal, attempt)
    return _enter(journal, replace(attempt, baseline=baseline), InstallStep.TRIAL)


def _enter(journal: Journal, attempt: Attempt, step: InstallStep) -> Decision:
    attempt = replace(
        attempt, step=step, starts=1 if step in _RUNS_CONTENT else 0, is_deferred=False, reason=""
    )
    journal = replace(journal, attempt=attempt)
    return Decision(journal=journal, effect=work_of(journal), reports=progress(journal))


def _commit(journal: Journal, attempt: Attempt) -> Decision:
    mine = attempt.bundle
    committed = (mine, *(ref for ref in journal.committed if ref.sha256 != mine.sha256))[:KEPT_COMMITTED]
    journal = replace(journal, committed=committed, factory=journal.factory or mine)
    journal, reports = _close(journal, attempt, InstallStep.COMMITTED, InstallStatus.SUCCEEDED)
    return Decision(journal=journal, effect=Prune(), reports=reports)


def _tried(journal: Journal, attempt: Attempt, event: TrialEnded | TrialSilent) -> Decision:
    if isinstance(event, TrialSilent):
        reason = (
            f"no window could be judged for {event.silent_s:.0f} s: the trial waits for the machine's sensors"
        )
        return _defer(journal, attempt, reason)
    return _commit(journal, attempt) if event.failure is None else _roll_back(journal, attempt, event.failure)


def _defer(journal: Journal, attempt: Attempt, reason: str) -> Decision:
    # It ran for so long without ending the agent: what ends it from now on is no fault of the content's start.
    deferred = replace(attempt, is_deferred=True, starts=0, reason=reason)
    journal = replace(journal, attempt=deferred)
    return Decision(journal=journal, reports=() if attempt.is_deferred else progress(journal))


def _roll_back(journal: Journal, attempt: Attempt, reason: str) -> Decision:
    journal = replace(journal, attempt=replace(attempt, step=InstallStep.ROLLING_BACK, reason=reason))
    return Decision(journal=journal, effect=work_of(journal), reports=progress(journal))


def _stop(journal: Journal, attempt: Attempt, step: InstallStep, reason: str) -> Decision:
    journal, reports = _close(journal, attempt, step, InstallStatus(step.value), reason=reason)
    return Decision(journal=journal, effect=Prune(), reports=reports)


def _close(
    journal: Journal, attempt: Attempt, step: InstallStep, status: InstallStatus, *, reason: str = ""
) -> tuple[Journal, tuple[InstallReport, ...]]:
    """End the attempt: forget it, remember its outcome."""
    outcome = journal.report(attempt.desired, step, status, reason=reason)
    others = tuple(r for r in journal.outcomes if r.execution != outcome.execution)
    closed = replace(journal, attempt=None, outcomes=(*others, outcome)[-KEPT_OUTCOMES:])
    return closed, (outcome,)
