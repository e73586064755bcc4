"""Who may do what, and who did: operator tokens, claim tokens, the audit log. Secrets only as SHA-256."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base
from service.roles import Role

__all__ = ["AuditEntry", "ClaimToken", "OperatorToken"]


class OperatorToken(Base):
    """A person's or service's token. `sha256` of the whole token text; the token itself is printed once."""

    __tablename__ = "operator_tokens"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[Role] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]


class ClaimToken(Base):
    """What a flashed image carries to enrol with; good for `uses_left` more devices."""

    __tablename__ = "claim_tokens"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    uses: Mapped[int]
    uses_left: Mapped[int]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]


class AuditEntry(Base):
    """One change, or one refusal worth knowing: when, who, what, to what."""

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    at: Mapped[float] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(200))
    detail: Mapped[dict[str, Any]]
