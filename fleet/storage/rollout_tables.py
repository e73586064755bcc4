"""Rollouts, their groups and executions, the timeline, and the counter of each device's desired states.

Written by `fleet.rollouts.store` and `fleet.rollouts.desired_states` only, always in one transaction with the desired
states that follow from the change.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, false
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base

__all__ = [
    "DesiredCounter",
    "RolloutExecution",
    "RolloutGroup",
    "RolloutLook",
    "RolloutRecord",
    "RolloutTransition",
]


class RolloutRecord(Base):
    """One rollout: its plan as it was asked for, and its state since `since`.

    `version` is raised by everyone who writes it, its groups or its executions: who holds it in memory sees by that whether
    another did. `tallies` are those of its executions (`fleet.rollouts.tallies`); null: not counted yet. `is_unsent`: devices are
    still to be told that it goes back or was canceled. `rollback_to` is the release that a person named when they rolled it back.
    `author` is the person who answers for the token that created it; null where nobody does (an aggregator).
    """

    __tablename__ = "rollouts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    family: Mapped[str] = mapped_column(String(64), index=True)
    release: Mapped[str] = mapped_column(String(80))
    plan: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(32), index=True)
    since: Mapped[float]
    created_at: Mapped[float] = mapped_column(index=True)
    created_by: Mapped[str] = mapped_column(String(200))
    author: Mapped[str | None] = mapped_column(String(64))
    needs_approval: Mapped[bool]
    rollback_to: Mapped[str | None] = mapped_column(String(80))
    version: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    tallies: Mapped[dict[str, Any] | None]
    is_unsent: Mapped[bool] = mapped_column(default=False, server_default=false())


class RolloutGroup(Base):
    """One group of a rollout, numbered from 0 in the order in which they run; the fields are those of `fleet.rollouts.executions.Group`."""

    __tablename__ = "rollout_groups"

    rollout: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(64))
    soak_s: Mapped[float]
    state: Mapped[str] = mapped_column(String(16))
    since: Mapped[float]
    reason: Mapped[str]
    looks: Mapped[int] = mapped_column(default=0)
    is_cleared: Mapped[bool] = mapped_column(default=False, server_default=false())


class RolloutLook(Base):
    """What the gates saw at look `number` (from 1) of a group; `answer` is a `fleet.gates.answers.LookAnswer`."""

    __tablename__ = "rollout_looks"

    rollout: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    group: Mapped[int] = mapped_column("group_number", primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    answer: Mapped[dict[str, Any]]


class RolloutExecution(Base):
    """One device in a rollout; the fields are those of `fleet.rollouts.executions.Execution`."""

    __tablename__ = "rollout_executions"
    __table_args__ = (Index(None, "device"), Index(None, "rollout", "group_number", "device"))

    rollout: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    group: Mapped[int] = mapped_column("group_number")  # "group" is a word of SQL
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str]
    since: Mapped[float]
    attempt: Mapped[int]
    allowed: Mapped[int] = mapped_column(default=0, server_default="0")
    is_unheard: Mapped[bool] = mapped_column(default=False, server_default=false())
    held_until: Mapped[float | None]
    failed_at: Mapped[float | None]
    given_at: Mapped[float | None]
    previous: Mapped[str | None] = mapped_column(String(80))
    before: Mapped[dict[str, Any] | None]
    returns: Mapped[int]
    returned_at: Mapped[float | None]
    is_awaited: Mapped[bool] = mapped_column(default=False, server_default=false())
    restored_at: Mapped[float | None]
    superseded_by: Mapped[str | None] = mapped_column(String(64))


class RolloutTransition(Base):
    """One line of the timeline: what (``rollout``, ``group`` or ``device``) went from where to where, when and why."""

    __tablename__ = "rollout_timeline"
    __table_args__ = (Index(None, "rollout", "subject", "id"),)

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    rollout: Mapped[str] = mapped_column(ForeignKey("rollouts.id"))
    at: Mapped[float]
    subject: Mapped[str] = mapped_column(String(16))
    group: Mapped[int | None] = mapped_column("group_number")
    device: Mapped[str | None] = mapped_column(String(64))
    was: Mapped[str | None] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str]
    actor: Mapped[str] = mapped_column(String(200))


class DesiredCounter(Base):
    """The last counter given to a device. Outlives its desired state: a counter is never used twice."""

    __tablename__ = "desired_counters"

    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    counter: Mapped[int] = mapped_column(BigInteger)
