"""What a journal's present step asks for: the work to do, and the word to the fleet. Pure; doing either again is always safe."""

from __future__ import annotations

from edge_agent.installation.events import (
    Activate,
    Check,
    Download,
    Effect,
    FallBack,
    Probe,
    Proceed,
    Shadow,
    Verify,
)
from edge_agent.installation.journal import Journal
from protocol.messages.kinds import InstallStatus, InstallStep
from protocol.messages.payloads import InstallReport

__all__ = ["fall_back", "progress", "work_of"]


def work_of(journal: Journal) -> Effect | None:
    """The work of the present step: performing it again is always safe."""
    attempt = journal.attempt
    if attempt is None:
        return None
    desired, bundle = attempt.desired, attempt.bundle
    is_proven = journal.has_proven(bundle.sha256)
    works: dict[InstallStep, Effect] = {
        InstallStep.CHECKING: Check(desired=desired),
        InstallStep.DOWNLOADING: Download(desired=desired, is_deferred=attempt.is_deferred),
        InstallStep.VERIFYING: Verify(desired=desired, is_proven=is_proven),
        InstallStep.STAGED: Proceed(),
        InstallStep.PROBING: Probe(bundle=bundle),
        InstallStep.SHADOWING: Shadow(bundle=bundle),
        InstallStep.ACTIVATING: Activate(desired=desired, is_proven=is_proven),
        InstallStep.ROLLING_BACK: fall_back(journal),
    }
    return works.get(attempt.step)  # TRIAL waits for windows


def progress(journal: Journal) -> tuple[InstallReport, ...]:
    """The word that the step has begun, or waits; none where nothing is under way."""
    attempt = journal.attempt
    if attempt is None:
        return ()
    may_wait = attempt.step in {InstallStep.DOWNLOADING, InstallStep.SHADOWING, InstallStep.TRIAL}
    status = InstallStatus.DEFERRED if attempt.is_deferred and may_wait else InstallStatus.IN_PROGRESS
    return (journal.report(attempt.desired, attempt.step, status, reason=attempt.reason),)


def fall_back(journal: Journal) -> FallBack:
    """Anything but what is being installed, unless that is what ran before as well."""
    attempt, fallbacks = journal.attempt, journal.fallbacks()
    if attempt is None or attempt.bundle in fallbacks:
        return FallBack(bundles=fallbacks)
    return FallBack(bundles=fallbacks, shunned=frozenset({attempt.bundle.sha256}))
