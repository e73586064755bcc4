"""A log that cannot fill a disk, say the same thing for ever, or hold up who writes it.

Each kind of line (a logger and the event it names, which is the first word) has a budget: some at once, then one in a while, which says
how many more there were like it. So a driver that fails every five seconds with another text each time costs a few hundred lines
a day, and nothing else that is said gets lost in them. A line is one line of bounded length, whatever is in it. A reader that
does not read (a pipe that is full) costs lines, which are counted, and no time.

Not a store: who needs every event keeps it where it belongs, in the outbox or the database.
"""

from __future__ import annotations

import logging
import select
import sys
import time
from collections.abc import Callable
from typing import Final, TextIO

from runtime.printable import OneLineFormatter, printable

__all__ = ["BoundedLog", "LogBudget", "UnblockedHandler", "log_to_stderr"]

BURST: Final = 30
"""Lines of one kind at once: a rollout and a bad road say less in an hour."""
EVERY_S: Final = 300.0
"""Then one in five minutes: at most 318 a day of one kind."""
_LONGEST_LINE: Final = 1000
"""Characters; four times as many bytes at most, which a pipe takes as a whole (PIPE_BUF)."""
_LONGEST_WORD: Final = 64
_MOST_LOGGERS: Final = 128
_MOST_WORDS: Final = 64
"""Of one logger: one that makes up words gets a budget for all further ones together, and takes nobody else's."""
_OTHERS: Final = "*"
_DECIDED: Final = "_log_budget"
"""A record passes the filters of several handlers, and is counted once."""


class _Kind:
    """What is left of one kind's budget, as of when, and how many more there were."""

    def __init__(self, left: float, filled_s: float) -> None:
        self.left, self.filled_s, self.more = left, filled_s, 0


class LogBudget:
    """How often each kind may be told.

    Args:
        clock: monotonic seconds.
        burst: so many at once.
        every_s: then one in so many seconds.
    """

    def __init__(self, clock: Callable[[], float], *, burst: int = BURST, every_s: float = EVERY_S) -> None:
        self._clock, self._burst, self._every_s = clock, burst, every_s
        self._kinds: dict[str, dict[str, _Kind]] = {}

    def spend(self, logger: str, word: str) -> int | None:
        """Tell one of a kind: how many like it were not told before it, or None where this one is not told either."""
        now_s, kind = self._clock(), self._kind(logger, word)
        kind.left = min(self._burst, kind.left + (now_s - kind.filled_s) / self._every_s)
        kind.filled_s = now_s
        if kind.left < 1:
            kind.more += 1
            return None
        kind.left -= 1
        more, kind.more = kind.more, 0
        return more

    def _kind(self, logger: str, word: str) -> _Kind:
        if logger not in self._kinds and len(self._kinds) >= _MOST_LOGGERS:
            logger = _OTHERS
        words = self._kinds.setdefault(logger, {})
        if word not in words and len(words) >= _MOST_WORDS:
            word = _OTHERS
        return words.setdefault(word, _Kind(left=self._burst, filled_s=self._clock()))


class BoundedLog(logging.Filter):
    """Lets records through as the budget says, as one line of bounded length; for handlers, which see all loggers.

    A record of structlog carries its event as a mapping: it keeps its form, and `more_like_it` says how many.
    """

    def __init__(self, budget: LogBudget) -> None:
        super().__init__()
        self._budget = budget

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter.filter`."""
        decided = record.__dict__.get(_DECIDED)
        if decided is None:
            decided = record.__dict__[_DECIDED] = self._is_told(record)
        return bool(decided)

    def _is_told(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, dict):
            more = self._budget.spend(record.name, _word(str(record.msg.get("event", ""))))
            if more:
                record.msg["more_like_it"] = more
            return more is not None
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a line that cannot be formatted must not end who wrote it
            message = f"unreadable_line {record.msg!r:.200}"
        more = self._budget.spend(record.name, _word(message))
        record.msg, record.args = _one_line(message, more or 0), ()
        return more is not None


class UnblockedHandler(logging.StreamHandler[TextIO]):
    """Writes a line where it can be written at once, and counts it where it cannot."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._unread = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        if not _takes_a_line(self.stream):
            self._unread += 1
            return
        if self._unread:
            record.msg = f"{record.getMessage()} (and {self._unread} lines before it that nobody read)"
            record.args, self._unread = (), 0
        super().emit(record)


def log_to_stderr(form: str, level: int = logging.INFO) -> logging.Filter:
    """Send the root logger's records to stderr, bounded; returns the filter, for further handlers."""
    bounded = BoundedLog(LogBudget(time.monotonic))
    handler = UnblockedHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter(form))
    handler.addFilter(bounded)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    return bounded


def _word(message: str) -> str:
    return message[:_LONGEST_WORD].partition(" ")[0]


def _one_line(message: str, more: int) -> str:
    length, message = len(message), printable(message[: _LONGEST_LINE + 1])
    if len(message) > _LONGEST_LINE:
        message = f"{message[:_LONGEST_LINE]}… ({length} characters)"
    return f"{message} (and {more} more like it)" if more else message


def _takes_a_line(stream: TextIO) -> bool:
    try:
        return bool(select.select([], [stream], [], 0)[1])
    except (OSError, TypeError, ValueError):
        return True  # no file that can be asked: then writing says what is wrong
