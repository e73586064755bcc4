"""The last lines of the log, in memory: what a person far away would have looked at first."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from runtime.printable import OneLineFormatter

__all__ = ["LogRing"]

_LONGEST_LINE: Final = 1000


class LogRing(logging.Handler):
    """Keeps formatted lines up to `maximum_chars` in all; the oldest go first, and are counted.

    Attributes:
        dropped: lines that have gone.
    """

    def __init__(self, maximum_chars: int = 64 * 1024) -> None:
        super().__init__()
        self.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        self._maximum = maximum_chars
        self._lines: deque[str] = deque()
        self._chars = 0
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`; called under the handler's lock."""
        try:
            line = self.format(record)[:_LONGEST_LINE]
        except Exception:  # noqa: BLE001 - a line that cannot be formatted must not end who wrote it
            line = f"a line of {record.name} could not be formatted"
        self._lines.append(line)
        self._chars += len(line)
        while self._chars > self._maximum:
            self._chars -= len(self._lines.popleft())
            self.dropped += 1

    def lines(self) -> list[str]:
        """What is kept, oldest first."""
        self.acquire()
        try:
            return list(self._lines)
        finally:
            self.release()
