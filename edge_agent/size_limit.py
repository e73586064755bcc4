"""How large a message the broker takes, as far as events have told: one came through only without its raw window.

A bad road tells the same for a while as a broker with a limit. So what is confirmed at that size refutes a limit, none is
believed below what was confirmed in the last hour, and it is tried anew after an hour, then two, up to a day. Pure.
"""

from __future__ import annotations

from typing import Final

__all__ = ["SizeLimit"]

_FIRST_BELIEVED_S: Final = 3600.0
_LONGEST_BELIEVED_S: Final = 86400.0
"""A broker is reconfigured now and then."""


class SizeLimit:
    """Bytes of the smallest message that is believed to be too large; `clock_s` is monotonic seconds."""

    def __init__(self) -> None:
        self._bytes, self._until_s = 0, float("-inf")
        self._believed_s = _FIRST_BELIEVED_S
        self._confirmed_bytes, self._confirmed_until_s = 0, float("-inf")

    def present(self, clock_s: float) -> int:
        """The limit that is believed now; 0: none."""
        return self._bytes if clock_s < self._until_s else 0

    def forbids(self, size: int, clock_s: float) -> bool:
        """Is a message of this size believed to be too large?"""
        limit = self.present(clock_s)
        return bool(limit) and size >= limit

    def suspect(self, size: int, clock_s: float) -> None:
        """A message of this size got through only when it was smaller."""
        if size <= self._confirmed_bytes and clock_s < self._confirmed_until_s:
            return
        if self._bytes:
            self._believed_s = min(2 * self._believed_s, _LONGEST_BELIEVED_S)
        self._bytes, self._until_s = size, clock_s + self._believed_s

    def confirm(self, size: int, clock_s: float) -> None:
        """The fleet has stored a message of this size."""
        if size >= self._confirmed_bytes or clock_s >= self._confirmed_until_s:
            self._confirmed_bytes, self._confirmed_until_s = size, clock_s + _FIRST_BELIEVED_S
        if self._bytes and size >= self._bytes:
            self._bytes, self._believed_s = 0, _FIRST_BELIEVED_S
