"""The decisions of an installation: journal + event → new journal, what to do next, what to tell the fleet.

Pure: no clock, no disk, no thread. Whoever performs an effect writes the new journal first, so that a kill at any
point is met by `Restarted` with a journal that says which work was begun.

::

    Asked ─► CHECKING ─► DOWNLOADING ─► VERIFYING ─► STAGED ─► PROBING ─► ACTIVATING ─► TRIAL ─► COMMITTED
                 └── already on disk ─────┘             └ proven here ───────┘ └── proven here ────┘
    any step before TRIAL ─► REJECTED | FAILED | TIMED_OUT | CANCELED (a newer request)
    TRIAL ─► TRIAL, deferred (no window can be judged): it neither fails nor passes by waiting
    TRIAL ─► ROLLING_BACK ─► ROLLED_BACK | INCONSISTENT (nothing on disk can be run)

Invariants: the active bundle changes only in TRIAL, COMMITTED (of a proven bundle), ROLLED_BACK, INCONSISTENT, CANCELED of a
trial, and recovery; it never names an unverified bundle; content that is not committed is begun at most `MAXIMUM_STARTS` times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from msgspec.structs import replace

from edge_agent.installation.acceptance import FARTHEST_JUMP, Novelty, novelty
from edge_agent.installation.events import (
    Activate,
    ActiveLost,
    Asked,
    Check,
    Checked,
    Closing,
    Download,
    Downloaded,
    Effect,
    Event,
    FallBack,
    FellBack,
    Opened,
    Probe,
    Probed,
    Proceed,
    Prune,
    Restarted,
    Staged,
    Stopped,
    TrialEnded,
    TrialSilent,
    Verified,
    Verify,
)
from edge_agent.installation.journal import (
    KEPT_COMMITTED,
    KEPT_OUTCOMES,
    Attempt,
    Baseline,
    Journal,
)
from protocol.messages.kinds import InstallStatus, InstallStep
from protocol.messages.payloads import DesiredState, InstallReport

__all__ = ["MAXIMUM_STARTS", "Decision", "decide", "work_of"]

MAXIMUM_STARTS: Final = 3
"""How often content that never proved itself may be run: once, and twice more for power cuts that were not its fault."""


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
            return _asked(journal, event)
        case Restarted():
            return _restarted(journal)
        case Closing():
            return _closing(journal)
        case ActiveLost(reason=reason):
            return _active_lost(journal, reason)
        case FellBack():
            return _fell_back(journal, event)
        case _:
            return (
                Decision(journal=journal)
                if journal.attempt is None
                else _under_way(journal, journal.attempt, event)
            )


def _asked(journal: Journal, asked: Asked) -> Decision:
    desired = asked.desired
    match novelty(journal, desired, is_confirmed=asked.is_confirmed):
        case Novelty.RUNNING:
            return Decision(journal=journal, effect=work_of(journal), reports=_progress(journal))
        case Novelty.ANSWERED:
            answer = journal.outcome_of(desired.execution)
            reports = () if answer is None else (answer,)
            return Decision(journal=journal, effect=work_of(journal), reports=reports)
        case Novelty.STALE:
            return _refuse(
                journal,
                desired,
                f"is not newer than {journal.highest_counter}, which this device has accepted",
            )
        case Novelty.FAR:
            return _refuse(
                journal,
                desired,
                f"is more than {FARTHEST_JUMP} ahead of {journal.highest_counter}, which this device has accepted",
            )
        case Novelty.NEW | Novelty.LOST:
            return _begin(journal, asked)
        case unknown:
            assert_never(unknown)


def _refuse(journal: Journal, desired: DesiredState, why: str) -> Decision:
    """Say no to a counter, and go on with what is under way."""
    refusal = journal.report(
        desired,
        InstallStep.REJECTED,
        InstallStatus.REJECTED,
        reason=f"desired state {desired.counter} ({desired.release}) {why}",
    )
    return Decision(journal=journal, effect=work_of(journal), reports=(refusal,))


def _begin(journal: Journal, asked: Asked) -> Decision:
    desired = asked.desired
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
        # Anybody may name a number: only the fleet's own word counts before the signed bundle is there.
        highest_counter=desired.counter if asked.is_confirmed else journal.highest_counter,
        attempt=Attempt(
            desired=desired,
            step=InstallStep.CHECKING,
            fallback=journal.active,
            is_confirmed=asked.is_confirmed,
        ),
    )
    return Decision(journal=journal, effect=work_of(journal), reports=(*reports, *_progress(journal)))


def _restarted(journal: Journal) -> Decision:
    attempt = journal.attempt
    if attempt is None:
        # The last word may have been lost between the journal and the outbox; saying it twice does no harm.
        return Decision(journal=journal, effect=Prune(), reports=journal.outcomes[-1:])
    if attempt.step not in {InstallStep.PROBING, InstallStep.ACTIVATING, InstallStep.TRIAL}:
        return Decision(journal=journal, effect=work_of(journal), reports=_progress(journal))
    if attempt.starts >= MAXIMUM_STARTS:
        reason = (
            f"the agent ended {attempt.starts} times during {attempt.step.value} of {attempt.desired.release}"
        )
        if attempt.step is InstallStep.TRIAL:
            return _roll_back(journal, attempt, reason)
        return _stop(journal, attempt, InstallStep.FAILED, reason)
    journal = replace(journal, attempt=replace(attempt, starts=attempt.starts + 1))
    return Decision(journal=journal, effect=work_of(journal), reports=_progress(journal))


def _closing(journal: Journal) -> Decision:
    attempt = journal.attempt
    if attempt is None or attempt.starts == 0:
        return Decision(journal=journal)
    return Decision(journal=replace(journal, attempt=replace(attempt, starts=attempt.starts - 1)))


def _active_lost(journal: Journal, reason: str) -> Decision:
    attempt = journal.attempt
    if attempt is not None and attempt.step is InstallStep.TRIAL:
        return _roll_back(journal, attempt, reason)
    return Decision(journal=journal, effect=_fall_back(journal))


def _fall_back(journal: Journal) -> FallBack:
    """Anything but what is being installed, unless that is what ran before as well."""
    attempt, fallbacks = journal.attempt, journal.fallbacks()
    if attempt is None or attempt.bundle in fallbacks:
        return FallBack(bundles=fallbacks)
    return FallBack(bundles=fallbacks, shunned=frozenset({attempt.bundle.sha256}))


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
        return Decision(journal=journal, effect=work_of(journal), reports=_progress(journal))
    step, status, reason = InstallStep.ROLLED_BACK, InstallStatus.ROLLED_BACK, attempt.reason
    if fell.failure is not None:
        step, status = InstallStep.INCONSISTENT, InstallStatus.FAILED
        reason = f"{reason}; and nothing on this device could be run instead: {fell.failure}"
    journal, reports = _close(journal, attempt, step, status, reason=reason)
    if bundle is not None and fell.found_bytes:
        journal = journal.trying(bundle, fell.found_bytes)
    return Decision(journal=journal, effect=Prune(), reports=(*reports, *_progress(journal)))


def _under_way(
    journal: Journal,
    attempt: Attempt,
    event: Checked | Downloaded | Verified | Staged | Probed | Opened | TrialEnded | TrialSilent | Stopped,
) -> Decision:
    decision = Decision(journal=journal)
    match attempt.step, event:
        case InstallStep.CHECKING, Checked(is_on_disk=is_on_disk):
            step = InstallStep.VERIFYING if is_on_disk else InstallStep.DOWNLOADING
            decision = _enter(journal, attempt, step)
        case InstallStep.DOWNLOADING, Downloaded():
            decision = _enter(journal, attempt, InstallStep.VERIFYING)
        case InstallStep.VERIFYING, Verified():
            counter = max(journal.highest_counter, attempt.desired.counter)
            decision = _enter(replace(journal, highest_counter=counter), attempt, InstallStep.STAGED)
        case InstallStep.STAGED, Staged():
            is_proven = journal.has_proven(attempt.bundle.sha256)
            step = InstallStep.ACTIVATING if is_proven else InstallStep.PROBING
            decision = _enter(journal, attempt, step)
        case InstallStep.PROBING, Probed():
            decision = _enter(journal, attempt, InstallStep.ACTIVATING)
        case InstallStep.ACTIVATING, Opened(baseline=baseline):
            decision = _opened(journal, attempt, baseline)
        case InstallStep.TRIAL, TrialEnded() | TrialSilent():
            if event.sha256 == attempt.bundle.sha256:
                decision = _tried(journal, attempt, event)
        case InstallStep.TRIAL | InstallStep.ROLLING_BACK, _:
            pass  # only a verdict ends a trial, and only FellBack a rollback
        case _, Stopped(step=step, reason=reason):
            decision = _stop(journal, attempt, step, reason)
        case _:
            pass  # the result of work that a newer request has made void
    return decision


def _opened(journal: Journal, attempt: Attempt, baseline: Baseline | None) -> Decision:
    journal = replace(journal, active=attempt.bundle)
    if journal.has_proven(attempt.bundle.sha256):
        return _commit(journal, attempt)
    return _enter(journal, replace(attempt, baseline=baseline), InstallStep.TRIAL)


def _enter(journal: Journal, attempt: Attempt, step: InstallStep) -> Decision:
    runs_content = step in {InstallStep.PROBING, InstallStep.ACTIVATING, InstallStep.TRIAL}
    journal = replace(journal, attempt=replace(attempt, step=step, starts=1 if runs_content else 0))
    return Decision(journal=journal, effect=work_of(journal), reports=_progress(journal))


def _commit(journal: Journal, attempt: Attempt) -> Decision:
    mine = attempt.bundle
    committed = (mine, *(ref for ref in journal.committed if ref.sha256 != mine.sha256))[:KEPT_COMMITTED]
    journal = replace(journal, committed=committed, factory=journal.factory or mine)
    journal, reports = _close(journal, attempt, InstallStep.COMMITTED, InstallStatus.SUCCEEDED)
    return Decision(journal=journal, effect=Prune(), reports=reports)


def _tried(journal: Journal, attempt: Attempt, event: TrialEnded | TrialSilent) -> Decision:
    if isinstance(event, TrialSilent):
        return _defer(journal, attempt, event.silent_s)
    return _commit(journal, attempt) if event.failure is None else _roll_back(journal, attempt, event.failure)


def _defer(journal: Journal, attempt: Attempt, silent_s: float) -> Decision:
    # It ran for so long without ending the agent: what ends it from now on is no fault of the content's start.
    deferred = replace(
        attempt,
        is_deferred=True,
        starts=0,
        reason=f"no window could be judged for {silent_s:.0f} s: the trial waits for the machine's sensors",
    )
    journal = replace(journal, attempt=deferred)
    return Decision(journal=journal, reports=() if attempt.is_deferred else _progress(journal))


def _roll_back(journal: Journal, attempt: Attempt, reason: str) -> Decision:
    journal = replace(journal, attempt=replace(attempt, step=InstallStep.ROLLING_BACK, reason=reason))
    return Decision(journal=journal, effect=work_of(journal), reports=_progress(journal))


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


def work_of(journal: Journal) -> Effect | None:
    """The work of the present step: performing it again is always safe."""
    attempt = journal.attempt
    if attempt is None:
        return None
    desired, bundle = attempt.desired, attempt.bundle
    works: dict[InstallStep, Effect] = {
        InstallStep.CHECKING: Check(desired=desired),
        InstallStep.DOWNLOADING: Download(desired=desired, is_confirmed=attempt.is_confirmed),
        InstallStep.VERIFYING: Verify(desired=desired),
        InstallStep.STAGED: Proceed(),
        InstallStep.PROBING: Probe(bundle=bundle),
        InstallStep.ACTIVATING: Activate(bundle=bundle),
        InstallStep.ROLLING_BACK: _fall_back(journal),
    }
    return works.get(attempt.step)  # TRIAL waits for windows


def _progress(journal: Journal) -> tuple[InstallReport, ...]:
    attempt = journal.attempt
    if attempt is None:
        return ()
    is_deferred = attempt.is_deferred and attempt.step is InstallStep.TRIAL
    status = InstallStatus.DEFERRED if is_deferred else InstallStatus.IN_PROGRESS
    return (journal.report(attempt.desired, attempt.step, status, reason=attempt.reason),)
