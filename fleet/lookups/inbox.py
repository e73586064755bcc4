"""Anomalies that wait for a verdict, in lines that a person judges: one, one device many times, or a storm.

A **storm** is many devices of a family within a short time: a power cut, a crane, a release that is too keen. One device
**again** and again is one matter too. Either is one line that opens, and can be judged whole: it is named by what finds it again
(`Scope`), not by ten thousand ids, and an anomaly that comes later is in none that was shown before.

::

    waiting, oldest first ─► at most `LOOKED_AT` of them, four columns each ─► lines ─► the anomalies of those that are shown

Invariants: an anomaly is in one line of a page; nothing here reads a window but of what is shown.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

from sqlalchemy import ColumnElement, Select, and_, func, select, true
from sqlalchemy.orm import Session, defer

from fleet.device_commands import batched
from fleet.errors import BadRequestError
from fleet.storage.device_tables import Device
from fleet.storage.event_tables import WAITS, Anomaly
from service.paging import MAXIMUM_ROW_ID

__all__ = [
    "STORM_DEVICES",
    "Line",
    "LineKind",
    "Narrowed",
    "Scope",
    "Waiting",
    "count_waiting",
    "find_scope",
    "narrow_waiting",
    "read_lines",
    "read_waiting",
]

LOOKED_AT: Final = 5000
"""Anomalies that are put into lines at once: some twenty milliseconds, and as many as are judged at a press. A storm that is larger goes on
on the next page."""

COUNTED: Final = 10_000

STORM_DEVICES: Final = 6
STORM_BEGINS_S: Final = 60.0
STORM_PAUSE_S: Final = 30.0
STORM_LASTS_S: Final = 1800.0
"""So many devices of a family within a minute are a storm, until nothing comes for half a minute, or half an hour is over."""

AGAIN: Final = 3
AGAIN_WITHIN_S: Final = 3600.0
"""So many of one device, each within an hour of the one before, are one matter."""


class LineKind(StrEnum):
    """What a line is."""

    ONE = "one"
    AGAIN = "again"
    STORM = "storm"


@dataclass(frozen=True, kw_only=True)
class Narrowed:
    """Which anomalies are meant; None: whatever it is. `scope`: those of one line."""

    family: str | None = None
    site: str | None = None
    device: str | None = None
    scope: Scope | None = None

    @property
    def is_of_devices(self) -> bool:
        """Whether what is asked is no matter of the anomaly alone."""
        return bool(self.family or self.site or (self.scope and self.scope.of == "family"))

    def condition(self) -> ColumnElement[bool]:
        """On `Anomaly` beside its `Device`."""
        asked = [
            column == value
            for column, value in (
                (Device.family, self.family),
                (Device.site, self.site),
                (Anomaly.device, self.device),
            )
            if value is not None
        ]
        return and_(true(), *asked, self.scope.condition() if self.scope else true())


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The anomalies `first` to `last` (row ids) of one device, or of one family.

    >>> str(Scope.parse("17-912.device.press-7"))
    '17-912.device.press-7'
    """

    first: int
    last: int
    of: str
    name: str

    def __str__(self) -> str:
        """As a form says it."""
        return f"{self.first}-{self.last}.{self.of}.{self.name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises BadRequestError for one that we never gave out."""
        match = re.fullmatch(r"(\d{1,19})-(\d{1,19})\.(device|family)\.(.{1,64})", text, re.ASCII)
        if match is None or max(int(match[1]), int(match[2])) > MAXIMUM_ROW_ID:
            raise BadRequestError(
                f"{text[:80]!r} names no group of anomalies; take one from the page of those that wait"
            )
        return cls(first=int(match[1]), last=int(match[2]), of=match[3], name=match[4])

    def condition(self) -> ColumnElement[bool]:
        """On `Anomaly` beside its `Device`."""
        column = Anomaly.device if self.of == "device" else Device.family
        return and_(Anomaly.id.between(self.first, self.last), column == self.name)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: `anomalies` are row ids in their order, over [began, ended] by when they came (Unix s).

    `sites` and `releases` of a storm are those of its first devices, so that what they have in common can be said.
    """

    kind: LineKind
    anomalies: Sequence[int]
    devices: int
    family: str
    device: str
    began: float
    ended: float

    @property
    def scope(self) -> Scope:
        """What finds its anomalies again."""
        of, name = ("family", self.family) if self.kind is LineKind.STORM else ("device", self.device)
        return Scope(first=self.anomalies[0], last=self.anomalies[-1], of=of, name=name)


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """An anomaly with what its device is; `anomaly` has its window, and its end where that is known."""

    anomaly: Anomaly
    family: str
    site: str


class _Row(NamedTuple):
    id: int
    device: str
    family: str
    at: float


def count_waiting(session: Session, narrowed: Narrowed, *, most: int = COUNTED) -> int:
    """How many wait; `most` + 1 says that there are more."""
    some = narrow_waiting(select(Anomaly.id), narrowed).limit(most + 1).subquery()
    return session.scalar(select(func.count()).select_from(some)) or 0


def find_scope(session: Session, narrowed: Narrowed, limit: int, *, after: int = 0) -> list[int]:
    """The row ids of those that wait, the oldest first, after row `after`."""
    query = narrow_waiting(select(Anomaly.id), narrowed).where(Anomaly.id > after)
    return list(session.scalars(query.order_by(Anomaly.id).limit(limit)))


def read_lines(
    session: Session, narrowed: Narrowed, *, after: int, limit: int
) -> tuple[list[Line], int | None]:
    """The next lines of those that wait, the oldest first, and where the page after them begins (None: it was the last).

    Args:
        session: a snapshot.
        narrowed: which anomalies.
        after: the row id that the page before ended with; 0: the first page.
        limit: about how many lines; where a line of many is cut there may be a few more.
    """
    columns = select(Anomaly.id, Anomaly.device, Anomaly.received_at)
    waiting = narrow_waiting(columns, narrowed).where(Anomaly.id > after)
    query = waiting.order_by(Anomaly.id).limit(LOOKED_AT + 1)
    told = session.execute(query).all()
    family_of = _families(session, {device for _, device, _ in told})
    found = [_Row(number, device, family_of.get(device, ""), at) for number, device, at in told]
    rows, has_more = found[:LOOKED_AT], len(found) > LOOKED_AT
    lines = _lines(rows)
    if len(lines) > limit:
        # what comes before the first line that is too many; lines that began earlier are cut there
        cut = lines[limit].anomalies[0]
        rows, has_more = [row for row in rows if row.id < cut], True
        lines = _lines(rows)
    return lines, rows[-1].id if has_more and rows else None


def _families(session: Session, devices: set[str]) -> dict[str, str]:
    """Of some devices; one by one in the database, each beside its thousand anomalies, is what costs."""
    found: list[tuple[str, str]] = []
    for some in batched(sorted(devices)):
        rows = select(Device.id, Device.family).where(Device.id.in_(some))
        found += session.execute(rows).tuples()
    return dict(found)


def read_waiting(session: Session, anomalies: Sequence[int], *, has_windows: bool) -> dict[int, Waiting]:
    """These anomalies by row id; without `has_windows` their windows, the most of them, stay where they are."""
    query = (
        select(Anomaly, func.coalesce(Device.family, ""), func.coalesce(Device.site, ""))
        .outerjoin(Device, Device.id == Anomaly.device)
        .where(Anomaly.id.in_(anomalies))
    )
    if not has_windows:
        query = query.options(defer(Anomaly.window, raiseload=True))
    return {
        anomaly.id: Waiting(anomaly=anomaly, family=family, site=site)
        for anomaly, family, site in session.execute(query)
    }


def narrow_waiting(columns: Select[*tuple[Any, ...]], narrowed: Narrowed) -> Select[*tuple[Any, ...]]:
    """`columns` of anomalies that wait for a verdict."""
    if narrowed.is_of_devices:
        columns = columns.outerjoin(Device, Device.id == Anomaly.device)
    return columns.where(WAITS, narrowed.condition())


def _lines(rows: Sequence[_Row]) -> list[Line]:
    """Every row in one line; lines in the order of their first rows."""
    storms = _storms(rows)
    in_storm = {row.id for storm in storms for row in storm}
    lines = [_line(LineKind.STORM, storm) for storm in storms]
    by_device: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        by_device[row.device].append(row)
    for own in by_device.values():
        for run in _runs(own, in_storm):
            if len(run) >= AGAIN:
                lines.append(_line(LineKind.AGAIN, run))
            else:
                lines += [_line(LineKind.ONE, [row]) for row in run]
    return sorted(lines, key=lambda line: line.anomalies[0])


def _runs(own: Iterable[_Row], in_storm: set[int]) -> list[list[_Row]]:
    """Rows of one device that follow upon each other; one that is in a storm parts them, so that a scope is what it says."""
    runs: list[list[_Row]] = []
    last: _Row | None = None
    for row in own:
        if row.id in in_storm:
            last = None
            continue
        if last is not None and row.at - last.at <= AGAIN_WITHIN_S:
            runs[-1].append(row)
        else:
            runs.append([row])
        last = row
    return runs


def _storms(rows: Sequence[_Row]) -> list[list[_Row]]:
    by_family: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        by_family[row.family].append(row)
    return [storm for own in by_family.values() for storm in _storms_of(own)]


def _storms_of(own: Sequence[_Row]) -> Iterable[list[_Row]]:
    first = 0
    while first < len(own):
        near = {row.device for row in _until(own, first, own[first].at + STORM_BEGINS_S)}
        if len(near) < STORM_DEVICES:
            first += 1
            continue
        last = first + 1
        while (
            last < len(own)
            and own[last].at - own[last - 1].at <= STORM_PAUSE_S
            and own[last].at - own[first].at <= STORM_LASTS_S
        ):
            last += 1
        yield list(own[first:last])
        first = last


def _until(own: Sequence[_Row], first: int, at: float) -> Iterable[_Row]:
    """The rows from `first` on up to `at`, as far as is needed to see a storm."""
    devices: set[str] = set()
    for number in range(first, len(own)):
        if own[number].at > at or len(devices) >= STORM_DEVICES:
            return
        devices.add(own[number].device)
        yield own[number]


def _line(kind: LineKind, rows: Sequence[_Row]) -> Line:
    return Line(
        kind=kind,
        anomalies=[row.id for row in rows],
        devices=len({row.device for row in rows}),
        family=rows[0].family,
        device=rows[0].device,
        began=rows[0].at,
        ended=rows[-1].at,
    )
