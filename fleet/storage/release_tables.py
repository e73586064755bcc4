"""Releases: the record of each published bundle. The bytes lie in a file named by their SHA-256."""

from __future__ import annotations

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base

__all__ = ["Release"]


class Release(Base):
    """One release of a model family. `manifest` holds its provenance.

    `approved_at` is set when a person approved a rollout of it, the first time; a publisher's token is no person.
    `withdrawn_at` is set when a rollout undid it, or a person took it back: nobody builds upon it, and another rollout
    of it needs `force`. `listed_at` is set while the signed repository lists it (`fleet.release_lists`): no device takes another.
    """

    __tablename__ = "releases"

    family: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int]
    signed_by: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]]
    published_by: Mapped[str] = mapped_column(String(200))
    published_at: Mapped[float]
    approved_at: Mapped[float | None]
    approved_by: Mapped[str | None] = mapped_column(String(200))
    withdrawn_at: Mapped[float | None]
    withdrawn_reason: Mapped[str | None]
    listed_at: Mapped[float | None]
