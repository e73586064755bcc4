"""The first journal of a device: what to run where nothing is remembered.

That is a new device, whose image may bring a factory bundle, or one whose journal was damaged: then the newest bundle
on disk that verifies is taken, because running something trusted beats watching nothing.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Final

from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.journal import BundleRef, Journal
from edge_agent.installation.verification import verify
from protocol.bundle import TrustedKeys
from runtime.errors import FedgeError

__all__ = ["first_journal"]

log: Final = logging.getLogger(__name__)


def first_journal(store: BundleStore, keys: TrustedKeys, family: str) -> Journal:
    """A journal made from what lies in the store; the replay counter starts anew.

    Bundles of another family, or that do not verify, are passed over with a line in the log.
    """
    factory = _factory(store, keys, family)
    found = [
        candidate
        for sha256 in store.staged()
        if (candidate := _candidate(store, sha256, keys, family)) is not None
    ]
    newest = max(found, key=lambda pair: pair[1], default=(factory, 0))[0]
    if newest is None:
        return Journal()
    log.info("release_adopted release=%s", newest.release)
    return Journal(active=newest, committed=(newest,), factory=factory or newest)


def _factory(store: BundleStore, keys: TrustedKeys, family: str) -> BundleRef | None:
    content = store.read_factory()
    if content is None:
        return None
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        manifest = verify(content, sha256, keys).manifest
        if manifest.family != family:
            log.error("factory_bundle_unusable family=%s expected=%s", manifest.family, family)
            return None
        if not store.has(sha256):
            store.adopt(sha256, content)
    except FedgeError as error:
        log.error("factory_bundle_unusable error=%s", error)  # noqa: TRY400 - expected, no traceback
        return None
    return BundleRef(release=manifest.release, sha256=sha256)


def _candidate(
    store: BundleStore, sha256: str, keys: TrustedKeys, family: str
) -> tuple[BundleRef, int] | None:
    try:
        manifest = verify(store.read(sha256), sha256, keys).manifest
    except FedgeError as error:
        log.warning("staged_bundle_unusable sha256=%s error=%s", sha256[:12], error)
        return None
    if manifest.family != family:
        return None
    return BundleRef(release=manifest.release, sha256=sha256), manifest.version
