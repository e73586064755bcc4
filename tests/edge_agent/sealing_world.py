"""Seals for the tests of a device: a fleet's instruction key, its words, and a device that seals what it says at once."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.fleet_words import FleetWords
from edge_agent.outbox_entry import OutboxEntry
from edge_agent.report_seals import seal_entry
from protocol.identity import IdentityKey
from protocol.messages.envelope import Event, encode
from protocol.messages.payloads import Payload
from protocol.sealed_events import seal

FLEET_KEY = ec.derive_private_key(2, ec.SECP256R1())
OTHER_KEY = ec.derive_private_key(3, ec.SECP256R1())
DEVICE_KEY = ec.derive_private_key(4, ec.SECP256R1())
NEVER_S = 1 << 40


def fleet_event(
    data: Payload,
    *,
    tenant: str,
    device: str,
    key: IdentityKey = FLEET_KEY,
    not_after: int = NEVER_S,
    sequence: int = 1,
) -> Event:
    """A word of the fleet, sealed for one device."""
    event = Event(source="fleet", boot_id="f", sequence=sequence, time=1.8e9, data=data)
    nonce = secrets.token_hex(16)
    return seal(event, key, tenant=tenant, device=device, nonce=nonce, not_after=not_after)


def fleet_message(data: Payload, **of: Any) -> bytes:
    """The same as it travels."""
    return encode(fleet_event(data, **of))


def fleet_words(
    tenant: str, device: str, *, monotonic: Callable[[], float] = lambda: 0.0, **more: Any
) -> FleetWords:
    """What believes the words of `FLEET_KEY`."""
    parts: dict[str, Any] = {"keys": lambda: (FLEET_KEY.public_key(),), "earliest_s": lambda: 0.0}
    return FleetWords(tenant=tenant, device=device, monotonic=monotonic, **parts | more)


class SealedAtOnce:
    """A `Sealing` without a thread."""

    def __init__(self, tenant: str, device: str) -> None:
        self._tenant, self._device = tenant, device
        self.problem = ""

    def sealed(self, entry: OutboxEntry) -> OutboxEntry | None:
        nonce = secrets.token_hex(16)
        return seal_entry(entry, DEVICE_KEY, tenant=self._tenant, device=self._device, nonce=nonce)
