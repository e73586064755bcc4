"""Alerts: what somebody is to be told, what they were told in one message, and how far each message got.

::

    Alert (one per alarm) ─► AlertGroup (one storm: one message, one resolution) ─► AlertDelivery (one per receiver and event)

`fleet.alerts` writes them all; what a silence covers stays an alert without a group.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base

__all__ = ["Alert", "AlertDelivery", "AlertGroup", "AlertPlace", "AlertReceiver", "AlertSilence"]

_NUMBER = BigInteger().with_variant(Integer, "sqlite")
_LIVE = text("settled_at IS NULL")
_UNRESOLVED = text("resolved_at IS NULL")
_WAITING = text("state = 'waiting'")


class Alert(Base):
    """One alarm of one subject: a device, a rollout, a release. There is one unsettled row for a `key` at most.

    `due_at`: not told before. `ended_at` is null while it lasts; one that comes back before `hold_s` more have passed is the same
    alarm, and after that it is settled. `times`: how often it was said. `episode`: the device's name of the anomaly heard last.
    `silence`: which covers it. `group` is null until it was told, and for good where it ended unseen under a silence.
    """

    __tablename__ = "alerts"
    __table_args__ = (
        Index("ix_alerts_live_key", "key", unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE),
        Index(None, "key", "settled_at"),
        Index(None, "group_id", "settled_at"),
        Index(None, "device"),
    )

    id: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(String(300))
    kind: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(200))
    device: Mapped[str | None] = mapped_column(String(64))
    family: Mapped[str] = mapped_column(String(64))
    site: Mapped[str] = mapped_column(String(200))
    detail: Mapped[str] = mapped_column(String(500))
    episode: Mapped[str | None] = mapped_column(String(64))
    times: Mapped[int] = mapped_column(BigInteger)
    opened_at: Mapped[float]
    last_at: Mapped[float]
    due_at: Mapped[float]
    hold_s: Mapped[float]
    ended_at: Mapped[float | None]
    ending: Mapped[str] = mapped_column(String(200))
    settled_at: Mapped[float | None] = mapped_column(index=True)
    silence: Mapped[int | None] = mapped_column(index=True)
    group: Mapped[int | None] = mapped_column("group_id", ForeignKey("alert_groups.id"))


class AlertGroup(Base):
    """One storm: alerts of one kind, family and site that began shortly after each other. `name` is its dedup key everywhere.

    `joined_at` is when the last alert joined it; it is told at `tell_at`, when more have had time to. `reminders` were sent since.
    """

    __tablename__ = "alert_groups"
    __table_args__ = (
        Index("ix_alert_groups_unresolved", "id", sqlite_where=_UNRESOLVED, postgresql_where=_UNRESOLVED),
    )

    id: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(32))
    severity: Mapped[str] = mapped_column(String(16))
    family: Mapped[str] = mapped_column(String(64))
    site: Mapped[str] = mapped_column(String(200))
    opened_at: Mapped[float]
    joined_at: Mapped[float]
    tell_at: Mapped[float]
    told_at: Mapped[float | None]
    reminded_at: Mapped[float | None]
    reminders: Mapped[int]
    resolved_at: Mapped[float | None] = mapped_column(index=True)


class AlertDelivery(Base):
    """That `receiver` is to hear of one event of a group: the outbox. `state` is waiting, delivered or parked.

    `is_alone`: it goes out in a message of its own, since one it shared with others was refused.
    """

    __tablename__ = "alert_deliveries"
    __table_args__ = (
        UniqueConstraint("group_id", "receiver", "event"),
        Index(
            "ix_alert_deliveries_waiting",
            "receiver",
            "id",
            sqlite_where=_WAITING,
            postgresql_where=_WAITING,
        ),
    )

    id: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    group: Mapped[int] = mapped_column("group_id", ForeignKey("alert_groups.id"))
    receiver: Mapped[str] = mapped_column(String(64))
    event: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    queued_at: Mapped[float]
    attempts: Mapped[int]
    tried_at: Mapped[float | None]
    delivered_at: Mapped[float | None]
    is_alone: Mapped[bool] = mapped_column(default=False, server_default=false())
    error: Mapped[str] = mapped_column(String(300))


class AlertReceiver(Base):
    """How one receiver does: since when it fails, when it is tried next, and when it was tried of late (Unix s, a minute's)."""

    __tablename__ = "alert_receivers"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures: Mapped[int]
    failing_since: Mapped[float | None]
    next_at: Mapped[float | None]
    error: Mapped[str] = mapped_column(String(300))
    delivered_at: Mapped[float | None]
    recent: Mapped[list[Any]]


class AlertSilence(Base):
    """A time of maintenance: alerts of the devices that `query` selects are not told. No `kinds`: of every kind."""

    __tablename__ = "alert_silences"

    id: Mapped[int] = mapped_column(_NUMBER, primary_key=True, autoincrement=True)
    query: Mapped[str] = mapped_column(String(2000))
    kinds: Mapped[list[str]]
    comment: Mapped[str] = mapped_column(String(500))
    starts_at: Mapped[float]
    ends_at: Mapped[float] = mapped_column(index=True)
    created_at: Mapped[float]
    created_by: Mapped[str] = mapped_column(String(200))
    ended_by: Mapped[str | None] = mapped_column(String(200))


class AlertPlace(Base):
    """Up to which number of a table alerts were made of what it says."""

    __tablename__ = "alert_places"

    table: Mapped[str] = mapped_column("table_name", String(64), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
