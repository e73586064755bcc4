"""What the fleet does again and again beside its calls, on a worker thread, whatever the database does meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from fleet.storage.outages import DatabaseAwayError, why_not_stored

__all__ = ["repeat"]

REST: Final = 4.0
"""Rest while more waits, in turns, its wait for the write lock included: a fifth of the time at most, and less where others hold the lock."""

LONGEST_REST_S: Final = 5.0
"""A turn may have waited ten seconds for the write lock and worked for one tenth of a second: alerts shall not wait forty for that."""

_log = structlog.get_logger()


async def repeat(
    work: Callable[[], bool | None], *, every_s: float, failed: str, pause_s: float | None = None
) -> None:
    """Do `work` every `every_s` seconds until canceled. A database that is away is waited for.

    Args:
        work: called on a worker thread; true where more waits to be done.
        every_s: between two turns.
        failed: the event that is logged where the database refused it.
        pause_s: instead, while more waits; `REST` times as long as the turn took where that is more, and at most `LONGEST_REST_S`.
    """
    while True:
        has_more, began = None, time.monotonic()
        try:
            has_more = await asyncio.to_thread(work)
        except DatabaseAwayError:
            pass  # it has been told
        except SQLAlchemyError as error:
            _log.error(failed, error=why_not_stored(error))
        if has_more and pause_s is not None:
            await asyncio.sleep(max(pause_s, min(REST * (time.monotonic() - began), LONGEST_REST_S)))
        else:
            await asyncio.sleep(every_s)
