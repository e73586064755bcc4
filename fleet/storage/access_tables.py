"""Who may do what, and who did: operator tokens, claim tokens, the audit log. Secrets only as SHA-256.

Migration 0010 makes the database refuse to change or delete a line of the audit log, but for emptying its detail. On SQLite
altering that table (`batch_alter_table`) drops its triggers: a later migration that does must make them again.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from fleet.storage.base import Base
from service.roles import Role

__all__ = ["AuditEntry", "ClaimToken", "OperatorToken", "SignInCode", "WebSession"]


class OperatorToken(Base):
    """A person's or program's token: the fields of `service.tokens.TokenRecord`; the token itself is told once."""

    __tablename__ = "operator_tokens"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[Role] = mapped_column(String(16))
    person: Mapped[str | None] = mapped_column(String(64))
    is_program: Mapped[bool]
    families: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    earlier_sha256: Mapped[str | None] = mapped_column(String(64))
    earlier_until: Mapped[float | None]
    created_at: Mapped[float]
    rotated_at: Mapped[float | None]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    last_used_at: Mapped[float | None]


class ClaimToken(Base):
    """What lets one device in, and says what it is: its family, site and labels, and its id where `for_device` is given.

    `name` is that of the batch it was made in. `needs_approval`: the device waits for a person. `used_by` is the device that
    it let in; a used one lets nobody else in.
    """

    __tablename__ = "claim_tokens"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), index=True)
    family: Mapped[str] = mapped_column(String(64))
    site: Mapped[str] = mapped_column(String(200))
    labels: Mapped[dict[str, str]]
    for_device: Mapped[str | None] = mapped_column(String(64))
    needs_approval: Mapped[bool]
    created_at: Mapped[float]
    expires_at: Mapped[float]
    revoked_at: Mapped[float | None]
    used_at: Mapped[float | None]
    used_by: Mapped[str | None] = mapped_column(String(64))


class WebSession(Base):
    """A browser that is signed in. It is good for what the token with `token_sha256` is good for, and no longer.

    `id` names it to people; the secret itself is in the browser's cookie. `browser` is what the browser calls itself.
    """

    __tablename__ = "web_sessions"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    token: Mapped[str] = mapped_column(String(64), index=True)
    token_sha256: Mapped[str] = mapped_column(String(64))
    browser: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[float]
    last_used_at: Mapped[float]
    expires_at: Mapped[float] = mapped_column(index=True)


class SignInCode(Base):
    """Signs one browser in, once, for whoever holds the token with `token_sha256`."""

    __tablename__ = "sign_in_codes"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    token_sha256: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[float]


class AuditEntry(Base):
    """One change, or one refusal worth knowing: when, who, what, to what; chained as `fleet.audit_chain` says.

    `salt` is null where the detail was erased.
    """

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    at: Mapped[float] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(200), index=True)
    detail: Mapped[dict[str, Any]]
    salt: Mapped[str | None] = mapped_column(String(32))
    detail_sha256: Mapped[str] = mapped_column(String(64))
    previous: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
