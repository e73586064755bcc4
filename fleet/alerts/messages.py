"""What is said of a storm, in words and figures, before any receiver dresses it.

Made of what the database holds when it is sent, and not when it was queued: a message that was held up by an outage says how large
the storm has become, and a device that was erased meanwhile is named nowhere. Names and reasons come from devices and people: each
is one line of printable characters here, and each receiver escapes what its language needs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fleet.alert_settings import AlertKind, Severity
from fleet.alerts.kinds import TERMS
from fleet.alerts.outbox import Event
from fleet.storage.alert_tables import Alert, AlertGroup
from runtime.printable import printable

__all__ = ["Facts", "Message", "Named", "facts_of", "message_of", "trial_message", "utc"]

FIRST: Final = 10
"""Devices that a message names; the rest are counted."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """One of the first alerts of a storm: whom it is about, what was said, how often."""

    subject: str
    detail: str
    times: int


@dataclass(frozen=True, kw_only=True)
class Message:
    """One thing that somebody is to hear.

    id: the same each time that it is sent, so a receiver can tell that it has it. dedup_key: of the storm, in all its messages.
    alerts: how many; `lasting` of them are still open. first: at most `FIRST`. url: of the storm's page; "" where none is set.
    """

    id: str
    dedup_key: str
    event: Event
    tenant: str
    kind: str
    severity: Severity
    family: str
    site: str
    alerts: int
    lasting: int
    times: int
    first: Sequence[Named]
    opened_at: float
    resolved_at: float | None
    url: str

    @property
    def title(self) -> str:
        """In one line; never longer than 200 characters but for the names in it."""
        who = self._who()
        if self.event is Event.TEST:
            return f"Test of Fedge's alerts ({self.tenant})"
        said = TERMS[AlertKind(self.kind)].title.format(who) + self._where()
        marks = {Event.RESOLVED: "Over: ", Event.REMINDER: "Still: "}
        return marks.get(self.event, "") + said

    @property
    def facts(self) -> list[str]:
        """The lines below the title."""
        if self.event is Event.TEST:
            return ["Somebody asked for this message, to see whether it arrives. Nothing is wrong."]
        lines = [f"{one.subject}: {_said(one)}" for one in self.first if _said(one)]
        names = [one.subject for one in self.first if not _said(one)]
        if names and self.alerts > 1:
            lines.append(", ".join(names))
        if self.alerts > len(self.first):
            lines.append(f"and {self.alerts - len(self.first)} more")
        lines.append(self.when)
        return lines

    @property
    def when(self) -> str:
        """From when, and until when."""
        if self.resolved_at is not None:
            return f"from {utc(self.opened_at)} to {utc(self.resolved_at)}"
        begun = f"since {utc(self.opened_at)}"
        return (
            begun if self.lasting == self.alerts else f"{begun}; {self.lasting} of {self.alerts} still last"
        )

    def _who(self) -> str:
        if self.alerts == 1 and self.first:
            return self.first[0].subject
        return f"{self.alerts} {TERMS[AlertKind(self.kind)].things if self.kind else ''}".strip()

    def _where(self) -> str:
        parts = [f" at {self.site}" if self.site else "", f" ({self.family})" if self.family else ""]
        return "".join(parts)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """How large a storm is: `alerts`, of which `lasting` have not ended; said `times`; and the `first` of them."""

    alerts: int = 0
    times: int = 0
    lasting: int = 0
    first: Sequence[Alert] = ()


def facts_of(session: Session, groups: Collection[int]) -> dict[int, Facts]:
    """How large storms are, by their numbers; one whose every device was erased is not among them."""
    counted = (
        select(
            Alert.group,
            func.count(),
            func.sum(Alert.times),
            func.count().filter(Alert.ended_at.is_(None)),
        )
        .where(Alert.group.in_(groups))
        .group_by(Alert.group)
    )
    place = func.row_number().over(partition_by=Alert.group, order_by=Alert.id).label("place")
    placed = select(Alert.id, place).where(Alert.group.in_(groups)).subquery()
    earliest = select(Alert).join(placed, placed.c.id == Alert.id).where(placed.c.place <= FIRST)
    first: dict[int, list[Alert]] = {}
    for alert in session.scalars(earliest.order_by(Alert.id)):
        first.setdefault(alert.group or 0, []).append(alert)
    return {
        number: Facts(alerts=alerts, times=int(times), lasting=lasting, first=first[number])
        for number, alerts, times, lasting in session.execute(counted)
        if number is not None
    }


def message_of(group: AlertGroup, facts: Facts, event: str, *, tenant: str, public_url: str) -> Message:
    """What is said of a storm for a line of the outbox, as things stand."""
    is_over = event == Event.RESOLVED
    return Message(
        id=f"{group.name}.{event}",
        dedup_key=group.name,
        event=Event(event.partition("-")[0]),
        tenant=tenant,
        kind=group.kind,
        severity=Severity(group.severity),
        family=printable(group.family),
        site=printable(group.site),
        alerts=facts.alerts,
        lasting=facts.lasting,
        times=facts.times,
        first=[
            Named(
                subject=printable(one.subject),
                detail=printable(one.ending if is_over and one.ending else one.detail)[:300],
                times=one.times,
            )
            for one in facts.first
        ],
        opened_at=group.opened_at,
        resolved_at=group.resolved_at if is_over else None,
        url=f"{public_url.rstrip('/')}/alerts?group={group.name}" if public_url else "",
    )


def trial_message(tenant: str, now: float, mark: str) -> Message:
    """What `fedge-fleet alerts test` sends; `mark` makes it one of its own."""
    name = f"fedge-test-{mark}"
    return Message(
        id=f"{name}.{Event.TEST}",
        dedup_key=name,
        event=Event.TEST,
        tenant=tenant,
        kind="",
        severity=Severity.INFO,
        family="",
        site="",
        alerts=0,
        lasting=0,
        times=0,
        first=(),
        opened_at=now,
        resolved_at=None,
        url="",
    )


def utc(unix_s: float) -> str:
    """A time for people, to the second.

    Examples:
        >>> utc(1_767_225_600.0)
        '2026-01-01 00:00:00 UTC'
    """
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _said(one: Named) -> str:
    words = one.detail
    return f"{words} ({one.times} times)".strip() if one.times > 1 else words
