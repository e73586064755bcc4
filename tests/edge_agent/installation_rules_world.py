"""Journals of a device at every step of an installation, played from the events that lead there."""

from __future__ import annotations

import hashlib

from installation_world import ask

from edge_agent.installation import events as ev
from edge_agent.installation.journal import Baseline, BundleRef, Journal
from edge_agent.installation.transitions import decide
from protocol.messages.kinds import InstallStep, ShadowOutcome
from protocol.messages.kinds import InstallStep as S
from protocol.messages.payloads import DesiredState, ShadowReport


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
    return committed_after(Journal(), *versions)


def committed_after(journal: Journal, *versions: int) -> Journal:
    """The same device once it has installed these as well."""
    for counter, version in enumerate(versions, start=journal.highest_counter + 1):
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
    S.ACTIVATING: ev.Activate(desired=wanted(2, 9)),
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
