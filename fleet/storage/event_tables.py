"""What devices reported: one table per kind of message (which of them are stored: `boot_tables`).

Every row carries the event's identity (device, boot, sequence) and two times: `sent_at` by the device's clock,
`received_at` by ours. Only `received_at` may be compared between devices.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
    false,
    literal_column,
    text,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import Mapped, declared_attr, mapped_column, relationship

from fleet.storage.base import Base

__all__ = [
    "LASTS",
    "WAITS",
    "Anomaly",
    "AnomalyEnd",
    "DriftRecord",
    "HealthRecord",
    "InstallRecord",
    "Received",
]


def _tells_of_its_end(context: DefaultExecutionContext) -> bool:
    return context.get_current_parameters().get("episode") is not None  # type: ignore[no-untyped-call] # of SQLAlchemy


_NUMBERED: Final = {"sqlite_autoincrement": True}
"""A number is never given twice: who reads what is new since the last number misses nothing after a deletion."""


class Received:
    """What every table of events has: whose event it is, where in its stream, and when it came."""

    # BIGINT is no rowid alias in SQLite, hence the variant
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    device: Mapped[str] = mapped_column(String(64))
    boot_id: Mapped[str] = mapped_column(String(64))
    sequence: Mapped[int] = mapped_column(BigInteger)
    sent_at: Mapped[float]
    received_at: Mapped[float]

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        return (
            UniqueConstraint("device", "boot_id", "sequence"),
            Index(None, "device", "received_at"),
            Index(None, "received_at"),
        )


class Anomaly(Received, Base):
    """An anomaly a device published. `window` is raw little-endian float32 of `window_shape`, or absent.

    `window_withheld`: the device's owner lets none leave; None where that was not said.
    `episode` is None from agents that tell of no end; `end` is None while it lasts, or until its end has arrived.
    `is_open` says the same where it must be found quickly: triggers of migration 0022 keep it, so that no writer of ends can
    forget it; on SQLite altering the table (`batch_alter_table`) drops them. `is_judged`: a verdict stands (`fleet.verdicts`).
    """

    __tablename__ = "anomalies"

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        # of many anomalies the few that are looked for all day
        is_open, waits = text("is_open = true"), text("is_judged = false")
        return (
            *super().__table_args__,
            Index(None, "device", "episode"),
            Index("ix_anomalies_open", "device", sqlite_where=is_open, postgresql_where=is_open),
            Index("ix_anomalies_unjudged", "score", sqlite_where=waits, postgresql_where=waits),
            _NUMBERED,
        )

    release: Mapped[str] = mapped_column(String(200))
    score: Mapped[float]
    threshold: Mapped[float]
    window_index: Mapped[int] = mapped_column(BigInteger)
    windows_over: Mapped[int] = mapped_column(BigInteger)
    observed_at_s: Mapped[float]
    contributors: Mapped[list[str]]
    window: Mapped[bytes | None] = mapped_column(LargeBinary)
    window_shape: Mapped[list[Any]]
    window_withheld: Mapped[bool | None]
    episode: Mapped[str | None] = mapped_column(String(64))
    is_open: Mapped[bool] = mapped_column(default=_tells_of_its_end, server_default=false())
    is_judged: Mapped[bool] = mapped_column(default=False, server_default=false())
    # joined by what the device calls it: either may arrive first
    end: Mapped[AnomalyEnd | None] = relationship(
        "AnomalyEnd",
        primaryjoin="and_(Anomaly.device == foreign(AnomalyEnd.device), Anomaly.episode == foreign(AnomalyEnd.episode))",
        viewonly=True,
        uselist=False,
        lazy="joined",
    )


LASTS: Final[ColumnElement[bool]] = Anomaly.is_open == literal_column("true")
WAITS: Final[ColumnElement[bool]] = Anomaly.is_judged == literal_column("false")
"""An anomaly lasts; one waits for a verdict: in the very words of their indexes, without which SQLite reads every anomaly instead."""


class AnomalyEnd(Received, Base):
    """That the anomaly `episode` of a device is over. The first word counts, also should a device say it once more."""

    __tablename__ = "anomaly_ends"

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        return (*super().__table_args__, UniqueConstraint("device", "episode"), _NUMBERED)

    episode: Mapped[str] = mapped_column(String(64))
    release: Mapped[str] = mapped_column(String(200))
    observed_at_s: Mapped[float]
    lasted_s: Mapped[float]
    windows: Mapped[int] = mapped_column(BigInteger)
    windows_over: Mapped[int] = mapped_column(BigInteger)
    peak_score: Mapped[float]
    reason: Mapped[str] = mapped_column(String(16))


class DriftRecord(Received, Base):
    """A drift report; `state` is a `DriftState`, `findings` the detectors that fired.

    `severity` and `shapes` are None in reports from before revision 0004.
    """

    __tablename__ = "drift_reports"

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        return (*super().__table_args__, _NUMBERED)

    release: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16))
    drift_score: Mapped[float]
    observed_at_s: Mapped[float]
    windows: Mapped[int] = mapped_column(BigInteger)
    findings: Mapped[list[Any]]
    severity: Mapped[float | None]
    shapes: Mapped[list[Any] | None]


class HealthRecord(Received, Base):
    """A health message: the figures that rollouts judge as columns, the payload as it travelled beside them.

    `state` and `interval_judged` are None where they were not told: before revision 0003, or by an older agent.
    `interval_s`, `memory_pss_bytes` and `sight` are None in messages from before revision 0016, `sight` also where a device had none;
    `score_mean`, `score_max` and `threshold` from before 0022.
    """

    __tablename__ = "health_reports"

    release: Mapped[str | None] = mapped_column(String(200))
    anomaly_rate: Mapped[float]
    drift_score: Mapped[float]
    drifted: Mapped[bool]
    inference_p99_us: Mapped[float]
    interval_windows: Mapped[int] = mapped_column(BigInteger)
    interval_judged: Mapped[int | None] = mapped_column(BigInteger)
    state: Mapped[str | None] = mapped_column(String(32))
    interval_s: Mapped[float | None]
    memory_pss_bytes: Mapped[int | None] = mapped_column(BigInteger)
    sight: Mapped[float | None]
    score_mean: Mapped[float | None]
    score_max: Mapped[float | None]
    threshold: Mapped[float | None]
    payload: Mapped[dict[str, Any]]


class InstallRecord(Received, Base):
    """How far a device is with an execution; per (device, execution) the last of its stream counts.

    `shadow` is a `ShadowReport`, from ACTIVATING on; None before, and from older agents.
    """

    __tablename__ = "install_reports"

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        return (*super().__table_args__, _NUMBERED)

    execution: Mapped[str] = mapped_column(String(200), index=True)
    release: Mapped[str] = mapped_column(String(200))
    counter: Mapped[int] = mapped_column(BigInteger)
    step: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    progress: Mapped[float]
    reason: Mapped[str]
    active_release: Mapped[str | None] = mapped_column(String(200))
    shadow: Mapped[dict[str, Any] | None]
