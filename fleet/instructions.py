"""The fleet's words as they leave it: numbered, sealed for one device, and good for a week.

The same message goes over MQTT and over HTTPS, made anew each time: what it says is the same, the nonce is not. What is retained
at a broker is published again before half of its time is over (`fleet.mqtt.link`), under the counter that it had, so that
a device which was away for weeks finds a word that holds, and one that knows it does nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import structlog

from fleet.errors import NotFoundError, UnacceptableError
from fleet.instruction_key import InstructionKey
from fleet.trust.repository import TrustRepository
from protocol.identity import fingerprint
from protocol.messages.commands import Commands
from protocol.messages.envelope import encode
from protocol.messages.payloads import Ack, DesiredState
from protocol.sealed_events import seal
from runtime.errors import StorageError
from service.event_source import EventSource

__all__ = ["LIFETIME_S", "RENEWED_AFTER_S", "Instructions", "Word", "tell_of_unnamed_key"]

LIFETIME_S: Final = 7 * 86_400
"""Until then a word is obeyed: a device may be a week away, and a broker can hold a word back for no longer."""

RENEWED_AFTER_S: Final = 3 * 86_400.0

Word = DesiredState | Commands | Ack

_log = structlog.get_logger()


class Instructions:
    """Makes sealed messages; may be called by several threads.

    Args:
        key: that seals.
        tenant: of every device.
        messages: numbers them.
        now: Unix seconds.
        draw: 32 hex digits, another time other ones.
    """

    def __init__(
        self,
        key: InstructionKey,
        *,
        tenant: str,
        messages: EventSource,
        now: Callable[[], float],
        draw: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._key, self._tenant, self._messages, self._now, self._draw = key, tenant, messages, now, draw

    def message(self, word: Word, device: str) -> bytes:
        """`word` for `device`, as it goes over the wire."""
        sealed = seal(
            self._messages.event(word),
            self._key.current(),
            tenant=self._tenant,
            device=device,
            nonce=self._draw(),
            not_after=int(self._now()) + LIFETIME_S,
        )
        return encode(sealed)

    def key_name(self) -> str:
        """The fingerprint of the key that seals now: another one, and every word must be published anew."""
        return fingerprint(self._key.current().public_key())


def tell_of_unnamed_key(repository: TrustRepository, key: InstructionKey) -> None:
    """Say so where devices would obey nothing that this fleet says: a key that was lost, restored, or not yet named."""
    try:
        named = repository.published().fleet_keys()
    except (NotFoundError, UnacceptableError, StorageError):
        return  # without a repository devices believe nobody, and who asks for it is told
    if key.current().public_key() not in named:
        _log.warning(
            "instruction_key_not_named",
            reason="the signed repository's role fleet names another key: no device obeys this fleet, nor forgets an event",
            mend="restore instruction.key, or have this one named: fedge-fleet instruction-key, then fedge-fleet trust rotate fleet",
        )
