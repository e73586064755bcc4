"""How often something may be done: a token bucket on a clock that nobody can set.

In memory only: a broker cannot restart a device, and whoever can has other means.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Allowance"]


class Allowance:
    """`burst` times at once, and one more every `every_s` seconds."""

    def __init__(self, *, burst: int, every_s: float, monotonic: Callable[[], float]) -> None:
        self._burst, self._every_s, self._monotonic = burst, every_s, monotonic
        self._tokens, self._at_s = float(burst), monotonic()

    def take(self) -> bool:
        """Use one up; False where none is left."""
        self._refill()
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @property
    def wait_s(self) -> float:
        """Seconds until the next one, ≥ 0."""
        self._refill()
        return max(0.0, (1.0 - self._tokens) * self._every_s)

    @property
    def text(self) -> str:
        """For people."""
        return f"{self._burst} at once, and one more every {self._every_s:g} s"

    def _refill(self) -> None:
        now_s = self._monotonic()
        self._tokens = min(float(self._burst), self._tokens + max(0.0, now_s - self._at_s) / self._every_s)
        self._at_s = now_s
