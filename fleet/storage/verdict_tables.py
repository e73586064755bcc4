"""What people said about an anomaly: was the alarm true? One row per judged anomaly; every change is in the audit log."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base

__all__ = ["Verdict", "VerdictRecord"]


class Verdict(StrEnum):
    """Whether there was something wrong with the machine."""

    TRUE_ALARM = "true_alarm"
    FALSE_ALARM = "false_alarm"


class VerdictRecord(Base):
    """The present verdict on one anomaly.

    `first_given_at` stays when a verdict is changed: it is the verdict's place in the stream that is watched for drift.
    `family` and `release` are the anomaly's at that time; `author` is the name of an operator token. Times are Unix s.
    """

    __tablename__ = "verdicts"
    __table_args__ = (Index(None, "family", "release", "first_given_at"), Index(None, "author", "given_at"))

    anomaly: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("anomalies.id"), primary_key=True, autoincrement=False
    )
    family: Mapped[str] = mapped_column(String(64))
    release: Mapped[str] = mapped_column(String(200))
    verdict: Mapped[Verdict] = mapped_column(String(16))
    author: Mapped[str] = mapped_column(String(200))
    note: Mapped[str] = mapped_column(String(500))
    given_at: Mapped[float]
    first_given_at: Mapped[float]
