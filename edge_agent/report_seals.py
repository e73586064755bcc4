"""What a device says of installations and commands, sealed by its identity key on the way out.

A key in a chip takes a tenth of a second, so it signs on a thread of its own: an event that is due is handed in, and sent when it
comes back. The outbox keeps what was said without a seal. So what an older version left there is sealed too, as is what
was taken over from a former name.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from edge_agent.link import EventKey
from edge_agent.outbox_entry import OutboxEntry
from protocol.errors import MessageError
from protocol.identity import IdentityKey
from protocol.messages.envelope import decode, encode
from protocol.sealed_events import SEALED_BY_DEVICES, seal

__all__ = ["ReportSeals", "seal_entry"]

log: Final = logging.getLogger(__name__)

_KEPT: Final = 64
"""Sealed events that wait to be sent: more than are ever under way at once."""
_PAUSE_S: Final = 10.0
"""Before a key that failed is asked again."""


def seal_entry(entry: OutboxEntry, key: IdentityKey, *, tenant: str, device: str, nonce: str) -> OutboxEntry:
    """The event with the device's seal; as it is where it needs none, or cannot be read."""
    if entry.kind not in SEALED_BY_DEVICES:
        return entry
    try:
        event = seal(decode(entry.payload, entry.kind), key, tenant=tenant, device=device, nonce=nonce)
        return replace(entry, payload=encode(event))
    except MessageError:
        return entry


class ReportSeals:
    """Seals in the background. `sealed` and `close` belong to the loop.

    Args:
        key: the device's identity key; whatever it fails with is told, and tried again.
        tenant, device: who this is.
        wake: called from the thread when something is sealed.
        monotonic: seconds.
    """

    def __init__(
        self,
        key: IdentityKey,
        *,
        tenant: str,
        device: str,
        wake: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key, self._tenant, self._device = key, tenant, device
        self._wake, self._monotonic = wake, monotonic
        self._changed = threading.Condition()
        self._waiting: deque[OutboxEntry] = deque()
        self._sealed: OrderedDict[EventKey, OutboxEntry] = OrderedDict()
        self._pending: set[EventKey] = set()
        self._not_before_s = float("-inf")
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self.problem = ""

    def sealed(self, entry: OutboxEntry) -> OutboxEntry | None:
        """The event as it may leave; None while it is being sealed: ask again when woken."""
        if entry.kind not in SEALED_BY_DEVICES:
            return entry
        with self._changed:
            if (found := self._sealed.pop(entry.key, None)) is not None:
                return found
            if entry.key not in self._pending and self._monotonic() >= self._not_before_s:
                self._pending.add(entry.key)
                self._waiting.append(entry)
                self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="report-seals", daemon=True)
                self._thread.start()
        return None

    def close(self) -> None:
        """Seal no more; what waits is in the outbox."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._waiting)
                if self._is_closed:
                    return
                entry = self._waiting.popleft()
            sealed = self._seal(entry)
            with self._changed:
                self._pending.discard(entry.key)
                if sealed is not None:
                    self._sealed[entry.key] = sealed
                    while len(self._sealed) > _KEPT:
                        self._sealed.popitem(last=False)
            self._wake()

    def _seal(self, entry: OutboxEntry) -> OutboxEntry | None:
        nonce = secrets.token_hex(16)
        try:
            sealed = seal_entry(entry, self._key, tenant=self._tenant, device=self._device, nonce=nonce)
        except Exception as error:  # noqa: BLE001 - a chip and its driver fail in their own ways; the event stays in the outbox
            told = (
                f"what this device reports of installations and commands cannot be signed, and waits: {error}"
            )
            if told != self.problem:
                log.warning("report_not_sealed error=%s", error)
            self.problem, self._not_before_s = told, self._monotonic() + _PAUSE_S
            return None
        self.problem = ""
        return sealed
