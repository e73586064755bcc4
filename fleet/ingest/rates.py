"""How fast each may go: a bucket of tokens for each key, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["TokenBuckets"]


class TokenBuckets:
    """Lets each key spend `burst` at once and `per_s` in the long run.

    The keys used longest ago are forgotten first, and begin anew with a full bucket: whoever makes up many keys gains
    nothing under any of them but a first burst.

    Args:
        per_s: tokens that come back in a second.
        burst: most tokens in a bucket.
        most: keys remembered.
    """

    def __init__(self, per_s: float, burst: float, *, most: int) -> None:
        self._per_s, self._burst, self._most = per_s, burst, most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, cost: float, now: float) -> bool:
        """Spend `cost` tokens at second `now` (any clock, which may step), or nothing at all where they do not suffice."""
        left, since = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + max(now - since, 0.0) * self._per_s)
        may = left >= cost
        self._buckets[key] = (left - cost if may else left, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return may
