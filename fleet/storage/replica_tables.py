"""Which process leads, of those that serve one database."""

from __future__ import annotations

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base

__all__ = ["LeaderRecord"]


class LeaderRecord(Base):
    """The one row: the present term of leadership. `epoch` only ever grows; `since` is Unix seconds.

    A process that led an earlier epoch finds another number here than its own, and writes nothing (`fleet.leadership`).
    `installation` names the data_dir of the leader: replicas share one.
    """

    __tablename__ = "leader"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(BigInteger)
    instance: Mapped[str] = mapped_column(String(200))
    installation: Mapped[str] = mapped_column(String(64))
    since: Mapped[float]
