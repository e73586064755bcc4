"""What came in since the last look, for all rollouts at once: read by places in the streams of rows, never by walking over devices.

Rows of reports and health get ever larger numbers in the order in which they are committed, because writers are one at a time
(`fleet.storage.base`); a number is never given twice to a report (`fleet.storage.event_tables`). So what is beyond the last
number seen is new, and nothing new is below it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import HealthRecord, InstallRecord
from fleet.storage.rollout_tables import RolloutRecord

__all__ = ["News", "NewsReader"]


@dataclass(frozen=True, kw_only=True)
class News:
    """What one look found.

    versions: of every rollout, by its id, the one created last first.
    reports: ids of executions that a report named, by rollout.
    healthy: devices whose health came.
    revoked: devices that were shut out since the last look.
    """

    versions: Mapping[str, int]
    reports: Mapping[str, set[str]] = field(default_factory=dict)
    healthy: frozenset[str] = frozenset()
    revoked: frozenset[str] = frozenset()


class NewsReader:
    """Remembers how far it has read. The first look finds nothing new: whoever begins reads everything that is stored."""

    def __init__(self) -> None:
        self._report: int | None = None
        self._health = 0
        self._revoked: frozenset[str] = frozenset()

    def read(self, session: Session, *, wants_health: bool) -> News:
        """Look once; `session` is a snapshot. Health is passed over where nobody wants it."""
        versions = session.execute(
            select(RolloutRecord.id, RolloutRecord.version).order_by(
                RolloutRecord.created_at.desc(), RolloutRecord.id.desc()
            )
        )
        revoked = frozenset(session.scalars(select(Device.id).where(Device.state == DeviceState.REVOKED)))
        is_first, known = self._report is None, self._revoked
        news = News(
            versions=dict(versions.all()),
            reports=self._read_reports(session),
            healthy=self._read_health(session, is_wanted=wants_health and not is_first),
            revoked=frozenset() if is_first else revoked - known,
        )
        self._revoked = revoked
        return news

    def _read_reports(self, session: Session) -> dict[str, set[str]]:
        if self._report is None:
            self._report = session.scalar(select(func.max(InstallRecord.id))) or 0
            return {}
        rows = session.execute(
            select(InstallRecord.id, InstallRecord.execution)
            .where(InstallRecord.id > self._report)
            .order_by(InstallRecord.id)
        )
        found: dict[str, set[str]] = defaultdict(set)
        for number, execution in rows:
            self._report = number
            found[execution.partition(":")[0]].add(execution)
        return found

    def _read_health(self, session: Session, *, is_wanted: bool) -> frozenset[str]:
        last = session.scalar(select(func.max(HealthRecord.id))) or 0
        before, self._health = self._health, last
        if not is_wanted or last <= before:
            return frozenset()
        fresh = select(HealthRecord.device).where(HealthRecord.id > before, HealthRecord.id <= last)
        return frozenset(session.scalars(fresh.distinct()))
