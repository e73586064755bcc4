"""Rollouts, their groups and executions, the timeline, and the counter of each device's desired states.

Written by `fleet.rollouts.store` and `fleet.rollouts.desired_states` only, always in one transaction with the desired
states that follow from the change.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String
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


class RolloutGroup(Base):
    """One group of a rollout, numbered from 0 in the order in which they run; `looks` were taken by its gates."""

    __tablename__ = "rollout_groups"

    rollout: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(64))
    soak_s: Mapped[float]
    state: Mapped[str] = mapped_column(String(16))
    since: Mapped[float]
    reason: Mapped[str]
    looks: Mapped[int] = mapped_column(default=0)


class RolloutLook(Base):
    """What the gates saw at look `number` (from 1) of a group; `answer` is a `fleet.gates.answers.LookAnswer`."""

    __tablename__ = "rollout_looks"

    rollout: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    group: Mapped[int] = mapped_column("group_number", primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    answer: Mapped[dict[str, Any]]


class RolloutExecution(Base):
    """One device in a rollout; the fields are those of `fleet.rollouts.progress.Execution`."""

    __tablename__ = "rollout_executions"
    __table_args__ = (Index(None, "device"), Index(None, "rollout", "group_number", "device"))

    rollout: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    group: Mapped[int] = mapped_column("group_number")  # "group" is a word of SQL
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str]
    since: Mapped[float]
    attempt: Mapped[int]
    given_at: Mapped[float | None]
    previous: Mapped[str | None] = mapped_column(String(80))
    before: Mapped[dict[str, Any] | None]
    returns: Mapped[int]
    returned_at: Mapped[float | None]
    restored_at: Mapped[float | None]


class RolloutTransition(Base):
    """One line of the timeline: what (``rollout``, ``group`` or ``device``) went from where to where, when and why."""

    __tablename__ = "rollout_timeline"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    rollout: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), index=True)
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
