"""Tasks beside the API of a service, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

__all__ = ["end_tasks"]

CANCEL_AGAIN_S: Final = 1.0


async def end_tasks(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until each of them has ended; whatever they end with is theirs.

    Once is not enough: where a task group's child fails in the moment of the cancellation, CPython before 3.13 raises the failure
    and drops the cancellation (python/cpython#116720). Whoever takes such a failure as a reason to connect again would go on
    for ever, and the service would not end.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
