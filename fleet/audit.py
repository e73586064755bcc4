"""The audit log: one line for every change, and for every refusal an operator should know of.

Entries are written in the transaction of the change itself: there is no change without its line.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from fleet.storage.access_tables import AuditEntry

__all__ = ["record"]


def record(session: Session, *, at: float, actor: str, action: str, subject: str, **detail: Any) -> None:
    """Add a line: `actor` did `action` (past tense, e.g. ``device_revoked``) to `subject`. Never pass a secret."""
    session.add(AuditEntry(at=at, actor=actor[:200], action=action, subject=subject[:200], detail=detail))
