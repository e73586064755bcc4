"""The audit log: one line for every change, and for every refusal an operator should know of.

Entries are written in the transaction of the change itself: there is no change without its line. A writer holds the database's
one write lock (`fleet.storage.base`), so of two that write at once the second follows the first, and the chain
(`fleet.audit_chain`) never forks. Lines are never deleted; the database refuses it.
"""

from __future__ import annotations

import os
import pwd
import secrets
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from fleet.audit_chain import AuditLine, Head, chain, one_line
from fleet.storage.access_tables import AuditEntry

__all__ = ["person_on_server", "read_head", "read_lines", "record"]

_FIELDS: Final = tuple(field.name for field in fields(AuditLine))
_AT_ONCE: Final = 500


def record(session: Session, *, at: float, actor: str, action: str, subject: str, **detail: Any) -> None:
    """Add a line: `actor` did `action` (past tense, e.g. ``device_revoked``) to `subject`. Never pass a secret."""
    line = chain(
        read_head(session),
        at=at,
        actor=one_line(actor)[:200],
        action=action,
        subject=one_line(subject)[:200],
        detail=one_line(detail),
        salt=secrets.token_hex(16),
    )
    session.add(AuditEntry(**vars(line)))


def person_on_server() -> str:
    """How a line names who works on the server itself: by the user the process runs as, whatever the environment says."""
    number = os.getuid()
    try:
        return f"cli:{pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"cli:{number}"


def read_head(session: Session) -> Head:
    """The last line."""
    last = select(AuditEntry.id, AuditEntry.sha256).order_by(AuditEntry.id.desc()).limit(1)
    row = session.execute(last).first()
    return Head() if row is None else Head(id=row.id, sha256=row.sha256)


def read_lines(session: Session) -> Iterator[AuditLine]:
    """Every line, the oldest first."""
    rows = select(AuditEntry).order_by(AuditEntry.id).execution_options(yield_per=_AT_ONCE)
    for entry in session.scalars(rows):
        yield AuditLine(**{name: getattr(entry, name) for name in _FIELDS})
