"""Whose events an outbox holds: those of one identity (tenant, device, key) and of no other.

A broker lets a device speak for itself only, so events of an earlier name can never be delivered under a new one as they are,
and those of another tenant must not be. They are set aside, in a file that is named after whose they are, and said; a person
who knows that it is the same machine has them delivered (`take_over`).
"""

from __future__ import annotations

import contextlib
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.enrolled import Enrolled
from edge_agent.errors import NotEnrolledError
from edge_agent.event_store import EventStore
from edge_agent.identity_key import load_device_key
from edge_agent.outbox_entry import OutboxEntry
from edge_agent.outbox_files import set_aside
from edge_agent.version import AGENT_VERSION
from protocol.errors import MessageError
from protocol.identity import fingerprint
from protocol.messages.envelope import decode, encode

__all__ = ["Owner", "claim", "owner_of", "take_over"]

log = logging.getLogger(__name__)

_NOTE: Final = "owner"
SORT: Final = "of"
"""How the names of such files go on: ``outbox.sqlite.of-<device>-<time>``."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """An identity; `fingerprint` is of its key, empty where none is known."""

    tenant: str
    device: str
    fingerprint: str = ""

    def is_same(self, other: Owner) -> bool:
        """Are these one identity, as far as both are known?"""
        keys = {self.fingerprint, other.fingerprint} - {""}
        tenants = {self.tenant, other.tenant} - {""}
        return self.device == other.device and len(keys) < 2 and len(tenants) < 2


def owner_of(key_file: Path, enrolled: Enrolled) -> Owner:
    """The identity that an enrolment gives; one of a version that did not note its key had it in a file."""
    key = enrolled.fingerprint
    if not key:
        with contextlib.suppress(NotEnrolledError):  # HTTPS needs it, and says so
            key = fingerprint(load_device_key(key_file).public_key())
    return Owner(tenant=enrolled.tenant, device=enrolled.device, fingerprint=key)


def claim(store: EventStore, path: Path, owner: Owner, now_s: float) -> EventStore:
    """The outbox of `owner`: this one, or a new one where it holds events of another identity.

    Raises:
        sqlite3.Error: the disk refuses.
    """
    before = _owner_of(store)
    if before is not None and not before.is_same(owner) and (store.size()[0] or store.parked()):
        count = store.size()[0] + len(store.parked())
        store.close()
        name = re.sub(r"[^A-Za-z0-9._-]", "_", before.device)[:64]
        aside = set_aside(path, f"{SORT}-{name}-{int(now_s)}")
        log.warning(
            "outbox_set_aside events=%d of=%s file=%s: this device is %s now; `fedge-agent take-over-events"
            " --config agent.toml` has them delivered under its new name",
            count,
            before.device,
            aside.name,
            owner.device,
        )
        store = EventStore(path)
    if before is None or before != owner:
        store.note(_NOTE, msgspec.json.encode(owner).decode())
    return store


def take_over(path: Path, aside: Path, owner: Owner) -> int:
    """Put the events of an outbox that was set aside into the one at `path`, under the name of `owner`, and delete the former.

    Each keeps its boot and number. What cannot be read, or belongs to another tenant, is left.

    Returns:
        How many events.

    Raises:
        sqlite3.Error: a file is damaged or the disk refuses; nothing is lost then, and it may be tried again.
        ValueError: the events are of another tenant, or some of them of kinds that only a later version knows.
    """
    old = EventStore(aside)
    try:
        before = _owner_of(old)
        if before is not None and before.tenant not in {"", owner.tenant}:
            raise ValueError(
                f"{aside.name} holds events of tenant {before.tenant!r}, and this device is of {owner.tenant!r}"
            )
        old.park_unknown(AGENT_VERSION)
        old.take_parked()
        if left := old.parked():
            raise ValueError(
                f"{aside.name} holds {len(left)} events of kinds that this version does not know, {left[0].kind!r} among them; update it first"
            )
        renamed = [entry for found in old.entries() if (entry := _renamed(found, owner.device)) is not None]
    finally:
        old.close()
    store = EventStore(path)
    try:
        store.insert(renamed, is_durable=True)
    finally:
        store.close()
    for end in ("", "-wal", "-shm"):
        aside.with_name(aside.name + end).unlink(missing_ok=True)
    return len(renamed)


def _owner_of(store: EventStore) -> Owner | None:
    noted = store.about(_NOTE)
    try:
        if noted:
            return msgspec.json.decode(noted, type=Owner)
        # A file of a version that noted none: its first event says who made it.
        first = next(store.entries(), None)
        return None if first is None else Owner(tenant="", device=decode(first.payload).source)
    except (msgspec.DecodeError, MessageError):
        return None


def _renamed(entry: OutboxEntry, device: str) -> OutboxEntry | None:
    try:
        event = msgspec.structs.replace(decode(entry.payload), source=device)
        return replace(entry, payload=encode(event))
    except MessageError:
        return None
