"""The boots of each device in the order in which they happened, what is stored of each, and identities that two share.

(boot, sequence) is the order of a device's events; no clock is.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import BigInteger, ColumnElement, ForeignKey, Index, Select, String, func
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base
from fleet.storage.event_tables import Received

__all__ = [
    "LATEST_FIRST",
    "Boot",
    "EventRange",
    "IdentityConflict",
    "Position",
    "position_columns",
    "with_boots",
]


Query = TypeVar("Query", bound=Select[*tuple[Any, ...]])


class Boot(Base):
    """One start of a device. (`era`, `counted`, `turn`) is its place among the boots of its device.

    `number` is what the device counted, 0 where it does not count. A new era begins where a device counts anew. A boot that
    tells no number takes `counted` of the boot it follows, and a `turn` after it. `range_count` is the rows of `EventRange`;
    up to `closed_to` a range may hold sequences that never came, `given_up` of them (`fleet.ingest.ranges`).
    """

    __tablename__ = "boots"
    __table_args__ = (Index(None, "device", "era", "counted", "turn"), Index(None, "first_received"))

    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    boot_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    era: Mapped[int] = mapped_column(BigInteger)
    counted: Mapped[int] = mapped_column(BigInteger)
    turn: Mapped[int] = mapped_column(BigInteger)
    first_received: Mapped[float]
    last_received: Mapped[float]
    will_received: Mapped[float | None]
    hardware: Mapped[str | None] = mapped_column(String(200))
    agent_version: Mapped[str | None] = mapped_column(String(200))
    range_count: Mapped[int] = mapped_column(default=0)
    closed_to: Mapped[int] = mapped_column(BigInteger, default=0)
    given_up: Mapped[int] = mapped_column(BigInteger, default=0)


LATEST_FIRST: Final = (Boot.era.desc(), Boot.counted.desc(), Boot.turn.desc())
"""The order of the boots of a device, from the last one back."""


class EventRange(Base):
    """Sequences [first, last] of one boot that are stored. Ranges of a boot neither overlap nor touch."""

    __tablename__ = "event_ranges"

    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    boot_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    first: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    last: Mapped[int] = mapped_column(BigInteger)


class IdentityConflict(Base):
    """Signs that two devices use one identity: the two `boots` spoke in turn, `signs` times, last `speaker` at `seen_at`.

    `since` is when there were enough to say so aloud, in the words of `message`; None while there are not. Boots of other
    numbers are lost in turn; that they speak in turn would be no sign.
    """

    __tablename__ = "identity_conflicts"

    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    boots: Mapped[list[str]]
    speaker: Mapped[str] = mapped_column(String(64))
    signs: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[float]
    since: Mapped[float | None]
    is_one_number: Mapped[bool]
    message: Mapped[str]


class Position(NamedTuple):
    """Where an event stands in the stream of its device; comparable between events of one device."""

    era: int
    counted: int
    turn: int
    sequence: int


def position_columns(table: type[Received]) -> tuple[ColumnElement[int], ...]:
    """The columns of a `Position`, of events of `table` that are joined to their boots by `with_boots`."""
    return (
        *(func.coalesce(column, 0) for column in (Boot.era, Boot.counted, Boot.turn)),
        table.sequence.expression,
    )


def with_boots(events: Query, table: type[Received]) -> Query:
    """`events`, a query over `table`, each beside its boot."""
    return events.outerjoin(Boot, (Boot.device == table.device) & (Boot.boot_id == table.boot_id))
