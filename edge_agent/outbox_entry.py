"""One event of the outbox: its bytes, who it is, when it was made, and how much it matters.

Values only. When it was made is said by two clocks (`Moment`): ages are taken from the one that nobody can set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import msgspec

from edge_agent.link import EventKey
from edge_agent.trusted_clock import TrustedClock
from protocol.errors import MessageError
from protocol.messages.envelope import decode, encode
from protocol.messages.kinds import Kind
from protocol.messages.payloads import AnomalyEvent

__all__ = ["ANOMALY_RANK", "HEALTH_RANK", "Moment", "OutboxEntry", "moment_of", "rank_of"]

HEALTH_RANK: Final = 0
ANOMALY_RANK: Final = 4
_RANKS: Final = {
    Kind.HEALTH: HEALTH_RANK,
    Kind.BIRTH: 1,
    Kind.DEATH: 1,
    Kind.DRIFT: 2,
    Kind.RESULT: 2,
    Kind.ANOMALY: ANOMALY_RANK,
    Kind.CLOSED: ANOMALY_RANK,
}


def rank_of(kind: Kind) -> int:
    """Evicted in ascending order: metrics can be measured again, an anomaly happens once."""
    return _RANKS.get(kind, 3)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Now, by both clocks of a device (`edge_agent.trusted_clock`).

    Unix seconds `wall_s`, known to be right where `is_set`; and `boot_s` seconds since the kernel's start `kernel_boot`.
    """

    wall_s: float
    boot_s: float
    kernel_boot: str = ""
    is_set: bool = False


def moment_of(clock: TrustedClock) -> Moment:
    """What both clocks show."""
    return Moment(
        wall_s=clock.wall_s(), boot_s=clock.boot_s(), kernel_boot=clock.kernel_boot, is_set=clock.is_set
    )


@dataclass(frozen=True, kw_only=True)
class OutboxEntry:
    """One event ready to send. `payload` is the encoded message; (boot_id, sequence) is its identity."""

    boot_id: str
    sequence: int
    kind: Kind
    made: Moment
    payload: bytes

    @property
    def key(self) -> EventKey:
        """What an acknowledgement names."""
        return self.boot_id, self.sequence

    def without_window(self) -> OutboxEntry | None:
        """The same anomaly without its raw window; None for an event that has none."""
        if self.kind is not Kind.ANOMALY:
            return None
        try:
            event = decode(self.payload, Kind.ANOMALY)
            if not isinstance(event.data, AnomalyEvent) or not event.data.window:
                return None
            return replace(
                self, payload=encode(msgspec.structs.replace(event, data=event.data.without_window()))
            )
        except MessageError:
            return None

    def withheld(self) -> OutboxEntry:
        """The event as it may leave a device whose owner lets no window leave.

        Raises:
            MessageError: the anomaly cannot be read, so nobody knows whether a window is in it; it must not leave.
        """
        if self.kind is not Kind.ANOMALY:
            return self
        event = decode(self.payload, Kind.ANOMALY)
        if not isinstance(event.data, AnomalyEvent) or event.data.window_withheld is True:
            return self
        bare = event.data.without_window(is_withheld=True)
        return replace(self, payload=encode(msgspec.structs.replace(event, data=bare)))
