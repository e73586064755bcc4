"""One change, and the place of a listener in the stream of them: what the service sends and its client reads.

A place (`Marks`) is the last number seen in each table that is watched, so it outlives the process that gave it out and means the
same to every replica. It is the id of a server-sent event: whoever comes back says it as Last-Event-ID.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, Self

from msgspec import Struct
from msgspec.structs import replace

from service.errors import InvalidQueryError

__all__ = ["Change", "ChangeKind", "Marks"]


class ChangeKind(StrEnum):
    """The event's name."""

    ROLLOUT = "rollout"  # a rollout, one of its groups, or its release entered a state
    DEVICE = "device"  # what a device is now
    ANOMALY = "anomaly"  # one began, or was told to be over
    DRIFT = "drift"  # a device said that its world left its reference, or came back
    ALARM = "alarm"  # something that an operator should look at
    ALERT = "alert"  # who is told of what: a storm began, grew, was told, reminded of, or is over; a receiver failed or has it
    AUDIT = "audit"  # who changed what
    SKIPPED = "skipped"  # more happened than is told: read anew what you show
    END = "end"  # nothing more comes on this connection; `reason` says why


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change; `at` is Unix seconds. What does not apply is left out.

    name: the rollout, the device, or what a line of the audit log is about.
    what: of a rollout what changed in it (rollout, group, release); of an anomaly open or ended; of an alarm and an audit line the
        action.
    state: what it entered, from `was`. `family` decides who may see it.
    """

    kind: ChangeKind
    at: float
    name: str = ""
    what: str = ""
    state: str = ""
    was: str | None = None
    group: int | None = None
    reason: str = ""
    actor: str = ""
    release: str | None = None
    family: str = ""
    score: float | None = None
    agent_state: str | None = None
    online: bool | None = None
    drifted: bool | None = None


_MARKS: Final = re.compile(
    r"t(\d{1,18})\.a(\d{1,18})\.e(\d{1,18})\.d(\d{1,18})\.v(\d{1,18})\.u(\d{1,18})(?:\.g(\d{1,18}))?"
)


class Marks(Struct, frozen=True):
    """The last number seen of the timeline, of anomalies, their ends, drift reports, devices, and the audit log; of alerts a time.

    Alerts change where they stand, so `g` is when one last did, Unix ms. A place that was given out before there was such a time is good.

    >>> str(Marks(t=3, u=9)), Marks.parse("t3.a0.e0.d0.v0.u9").moved("a", 4).a
    ('t3.a0.e0.d0.v0.u9.g0', 4)
    """

    t: int = 0
    a: int = 0
    e: int = 0
    d: int = 0
    v: int = 0
    u: int = 0
    g: int = 0

    def __str__(self) -> str:
        """As the id of an event."""
        return f"t{self.t}.a{self.a}.e{self.e}.d{self.d}.v{self.v}.u{self.u}.g{self.g}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The place that an id names; raises InvalidQueryError for one we never gave out."""
        match = _MARKS.fullmatch(text)
        if match is None:
            raise InvalidQueryError(
                f"{text[:80]!r} is no id of an event; give the last one as Last-Event-ID, or none"
            )
        return cls(*(int(number or 0) for number in match.groups()))

    def moved(self, table: str, number: int) -> Self:
        """The place after row `number` of a table."""
        return replace(self, **{table: number})
