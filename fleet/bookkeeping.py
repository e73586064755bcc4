"""What is kept of people's doings as time passes: when each token and each session was last used, and where the audit log ends.

The log's head goes to the process's own log whenever it has moved: kept by whoever keeps that, it shows later whether lines
were cut off the end (`fleet.audit_chain`).
"""

from __future__ import annotations

from typing import Final

import structlog

from fleet.audit import read_head
from fleet.audit_chain import Head
from fleet.auth.web_sessions import WebSessions
from fleet.repeating import repeat
from fleet.storage.base import Database
from service.tokens import StoredTokens

__all__ = ["Bookkeeping"]

EVERY_S: Final = 60.0

_log = structlog.get_logger()


class Bookkeeping:
    """Keeps books.

    Args:
        database: the fleet's.
        tokens: its operators'.
        sessions: their browsers'.
    """

    def __init__(self, database: Database, tokens: StoredTokens, sessions: WebSessions) -> None:
        self._database, self._tokens, self._sessions = database, tokens, sessions
        self._head: Head | None = None

    async def run(self) -> None:
        """Keep them every `EVERY_S` until canceled."""
        await repeat(self.keep, every_s=EVERY_S, failed="bookkeeping_failed")

    def keep(self) -> None:
        """Do it now."""
        self._tokens.store_uses()
        self._sessions.store_uses()
        self._sessions.forget_ended()
        with self._database.read() as session:
            head = read_head(session)
        if head != self._head:
            self._head = head
            _log.info("audit_head", head=str(head))
