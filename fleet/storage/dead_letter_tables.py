"""Dead letters: messages of enrolled devices that could not be taken for what they claim to be, as they came."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base

__all__ = ["DeadLetter"]


class DeadLetter(Base):
    """One message on the topic of `device`, which came `times` times; `sha256` is of its topic and payload.

    `boot_id` and `sequence` are what it says of itself, if that much can be read. Of a payload larger than any message
    may be only the beginning is kept, so that it cannot be replayed: then `size_bytes` is more than `payload` holds.
    """

    __tablename__ = "dead_letters"
    __table_args__ = (UniqueConstraint("device", "sha256"), Index(None, "device", "id"))

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    topic: Mapped[str] = mapped_column(String(300))
    boot_id: Mapped[str | None] = mapped_column(String(64))
    sequence: Mapped[int | None] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(32), index=True)
    message: Mapped[str] = mapped_column(String(500))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int]
    times: Mapped[int] = mapped_column(BigInteger)
    first_received: Mapped[float]
    last_received: Mapped[float]
    payload: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
