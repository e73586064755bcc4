"""Device queries that people keep under a name, for themselves or for everybody."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base

__all__ = ["SavedFilter"]


class SavedFilter(Base):
    """One query. `owner` is the person who keeps it, or the token where nobody answers for it; `is_shared`: everybody sees it."""

    __tablename__ = "saved_filters"
    __table_args__ = (Index(None, "owner", "name", unique=True),)

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    owner: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    query: Mapped[str] = mapped_column(String(2000))
    is_shared: Mapped[bool]
    created_at: Mapped[float]
