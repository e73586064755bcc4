"""Health in blocks of ten minutes: the sums from which a device's past is known, long after its messages are gone.

A block holds what arrived in it, by our clock: messages that lay in an outbox are in the block of their arrival. One row
is one device, block and release, so that no block mixes two releases. Written by `fleet.retention.health_blocks` only.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base

__all__ = ["BLOCK_S", "MOST_DRIFT", "MOST_SECONDS", "MOST_WINDOWS", "HealthBlock", "RollUp"]

BLOCK_S: Final = 600
"""Seconds of a block: short beside the hours that are compared, long beside the half minute between messages."""


MOST_WINDOWS: Final = 10_000_000.0
MOST_SECONDS: Final = 86_400.0
MOST_DRIFT: Final = 1e9
"""Of one message: a device that says more says nonsense, and must not make a sum overflow."""


class HealthBlock(Base):
    """Sums over the health messages of `device` on `release` (empty: none) that arrived in [start, start + 600 s).

    `seconds` are those that the messages cover. Of a message with judged windows and a latency: `latency_sum` of log p99
    in µs. `drift_sum`: of log(drift score + 0.01), over all `reports`. `memory_*`: of y = log PSS bytes at t hours after
    `start`, for a least-squares slope. `first_at`, `last_at`: when the first and the last arrived, Unix seconds.
    `score_max`: the highest score; `threshold_max`: the highest threshold that one was compared with; None where nobody told.
    `silences`: times between two of them that were longer than a device counts as online; `silence_at`: when the first began to be.
    """

    __tablename__ = "health_blocks"
    __table_args__ = (Index(None, "start"),)

    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    release: Mapped[str] = mapped_column(String(200), primary_key=True)
    reports: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    windows: Mapped[int] = mapped_column(BigInteger)
    judged: Mapped[int] = mapped_column(BigInteger)
    over: Mapped[float]
    latency_count: Mapped[int] = mapped_column(BigInteger)
    latency_sum: Mapped[float]
    drift_sum: Mapped[float]
    memory_count: Mapped[int] = mapped_column(BigInteger)
    memory_t: Mapped[float]
    memory_tt: Mapped[float]
    memory_y: Mapped[float]
    memory_ty: Mapped[float]
    sight_count: Mapped[int] = mapped_column(BigInteger)
    sight_sum: Mapped[float]
    score_max: Mapped[float | None]
    threshold_max: Mapped[float | None]
    first_at: Mapped[float]
    last_at: Mapped[float]
    silences: Mapped[int] = mapped_column(BigInteger)
    silence_at: Mapped[float | None]


class RollUp(Base):
    """How far the messages of `table_name` are rolled up: all rows up to id `done_to`, each exactly once."""

    __tablename__ = "roll_ups"

    table_name: Mapped[str] = mapped_column(String(64), primary_key=True)
    done_to: Mapped[int] = mapped_column(BigInteger)
