"""What to run where the journal does not say: what lies on the disk and is listed, because anything trusted beats watching nothing.

That is a new device, whose image may bring a factory bundle; one whose journal was damaged; and one where nothing opens that
the journal names. Only the factory's bundle is known to work here: of any other it is not known whether it ever proved
itself, so it is on trial like a release that was just installed, and is undone like one.

Listed: in the signed repository as this device knows it, fresh or not. Where none is known yet (a new device, before it has
asked for the first time) nothing is taken up; it is looked for again once one is known.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from typing import Final, NamedTuple

from edge_agent.installation.acceptance import Requirements, check_fit
from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.journal import KEPT_COMMITTED, BundleRef, Journal
from edge_agent.installation.verification import ReleaseList, check_still_listed, verify
from runtime.errors import FedgeError

__all__ = ["Found", "find_factory", "find_staged", "first_journal", "found_damaged"]

log: Final = logging.getLogger(__name__)


class Found(NamedTuple):
    """A bundle on the disk that this device can run; `version` is that of its release."""

    ref: BundleRef
    version: int
    size_bytes: int


def first_journal(store: BundleStore, trust: ReleaseList, requirements: Requirements) -> Journal:
    """A journal made from what lies in the store; the replay counter starts anew.

    Bundles of another family, or that are not listed, are passed over with a line in the log.
    """
    factory = find_factory(store, trust, requirements)
    brought = factory.ref if factory is not None else None
    staged = find_staged(store, trust, requirements)
    if not staged or staged[0].ref == brought:
        if factory is None:
            return Journal()
        log.info("release_adopted release=%s", factory.ref.release)
        return Journal(active=brought, committed=(factory.ref,), factory=brought)
    newest, others = staged[0], tuple(found.ref for found in staged[1:] if found.ref != brought)
    log.info("release_adopted release=%s", newest.ref.release)
    journal = Journal(committed=others[:KEPT_COMMITTED], factory=brought)
    return journal.trying(newest.ref, newest.size_bytes, starts=0)


def find_factory(store: BundleStore, trust: ReleaseList, requirements: Requirements) -> Found | None:
    """The bundle that came with the device, if it can be run; it is staged as well, where the disk has room."""
    try:
        content = store.read_factory()
        if content is None:
            return None
        found = _check(content, hashlib.sha256(content).hexdigest(), trust, requirements)
    except FedgeError as error:
        log.error("factory_bundle_unusable error=%s", error)  # noqa: TRY400 - expected, no traceback
        return None
    try:
        store.mend(found.ref.sha256, content)
    except FedgeError as error:  # it is read from where it lies, then
        log.warning("factory_bundle_not_staged error=%s", error)
    return found


def find_staged(
    store: BundleStore, trust: ReleaseList, requirements: Requirements, shunned: Collection[str] = ()
) -> list[Found]:
    """The staged bundles that can be run, but for those with a SHA-256 among `shunned`; the highest version first."""
    found = []
    for sha256 in store.staged():
        if sha256 in shunned:
            continue
        try:
            found.append(_check(store.read(sha256), sha256, trust, requirements))
        except FedgeError as error:
            log.warning("staged_bundle_unusable sha256=%s error=%s", sha256[:12], error)
    return sorted(found, key=lambda one: one.version, reverse=True)


def found_damaged(release: str, is_journal_lost: bool, mended: str, *, running: str) -> list[str]:  # noqa: FBT001 - three findings
    """What a person should know of the disk, a sentence each.

    Args:
        release: of which no copy is whole, or empty.
        is_journal_lost: whether the journal was damaged.
        mended: the release whose file was damaged and is whole again, or empty.
        running: what runs, in two words.
    """
    found = (
        (release, f"no copy of {release} on this disk is whole: {running} until the fleet sends it again"),
        (is_journal_lost, f"the journal of installations was damaged: {running}, as found on the disk"),
        (mended, f"the disk had damaged {mended}; it was mended from another copy: is the card worn out?"),
    )
    return [text for is_so, text in found if is_so]


def _check(content: bytes, sha256: str, trust: ReleaseList, requirements: Requirements) -> Found:
    manifest = verify(content, sha256).manifest
    check_still_listed(trust, manifest.release, sha256, len(content))
    check_fit(manifest, manifest.release, requirements)
    return Found(BundleRef(release=manifest.release, sha256=sha256), manifest.version, len(content))
