r"""Text from outside, written so that it stays one line and colours nothing: in logs, tables and sentences for people.

A name may hold a line feed that begins a made-up line, an escape sequence that repaints a terminal, a mark that turns the rest of
the line around. Each such character is written as Python would write it in a string: ``\n``, ``\x1b``, ``\u202e``.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["OneLineFormatter", "printable", "printable_json", "with_trace"]

TRACE_MARK: Final = "  | "
"""Before each line of a traceback: no line of a log that begins otherwise is anything but one event."""

MOST_TRACED: Final = 100
LONGEST_TRACED: Final = 1000
"""What an error says may be as long as what it is about."""


def printable(text: str) -> str:
    r"""`text` in one line of characters that are seen.

    Examples:
        >>> print(printable("press\n1 \x1b[31mred"))
        press\n1 \x1b[31mred
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_json(text: str) -> str:
    r"""Indented JSON whose strings hold nothing but characters that are seen; it means the same.

    Examples:
        >>> print(printable_json('["\x9b31m"]'))
        ["\u009b31m"]
    """

    def escaped(character: str) -> str:
        units = character.encode("utf-16-be", "surrogatepass").hex()
        return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))

    return "".join(c if c.isprintable() or c == "\n" else escaped(c) for c in text)


def with_trace(line: str, trace: str) -> str:
    """A line of a log, and under it the last lines of a traceback, each marked as such and none too long."""
    traced = (TRACE_MARK + printable(part[:LONGEST_TRACED]) for part in trace.splitlines()[-MOST_TRACED:])
    return "\n".join([printable(line), *traced])


class OneLineFormatter(logging.Formatter):
    """As `logging.Formatter`, of which each record is one line, and its traceback marked as such."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        trace = self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""
        return with_trace(self.formatMessage(record), trace)
