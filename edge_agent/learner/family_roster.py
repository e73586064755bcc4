"""Who the other devices of this family are: their identity keys, from the FLEET over HTTPS.

A device in a secure sum believes a neighbour's keys because the neighbour's identity key signed them, and it believes the
identity key because the fleet said so. The aggregator, who runs the sum, has no say: to slip in devices of its own it
would need the fleet's help. So the roster never comes from the aggregator, and it is not cached on disk.

Not a cache with an age: it is asked for once a run, and again when a device appears that it does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.errors import FleetError
from protocol.names import DeviceId

__all__ = ["FamilyRoster"]

REFRESH_AFTER_S: Final = 5.0
"""A cohort full of strangers must not make this device ask the fleet without end."""


class FamilyRoster:
    """Implements `sum_participant.RosterSource`.

    Args:
        fetch: asks the fleet (`FleetClient.family_roster`).
        clock: monotonic seconds.
    """

    def __init__(
        self,
        fetch: Callable[[], Mapping[DeviceId, ec.EllipticCurvePublicKey]],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._fetch, self._clock = fetch, clock
        # One dictionary for good: a role that was given it sees devices that are added later.
        self._keys: dict[DeviceId, ec.EllipticCurvePublicKey] = {}
        self._asked_at: float | None = None

    def keys(self, expected: frozenset[DeviceId]) -> Mapping[DeviceId, ec.EllipticCurvePublicKey]:
        """See `RosterSource.keys`. Raises FleetError where the fleet cannot be asked and nothing is known yet."""
        if expected <= self._keys.keys():
            return self._keys
        now = self._clock()
        if self._asked_at is not None and now - self._asked_at < REFRESH_AFTER_S:
            return self._keys
        try:
            fresh = self._fetch()
        except FleetError:
            if not self._keys:
                raise
            return self._keys
        self._asked_at = now
        self._keys.clear()
        self._keys.update(fresh)
        return self._keys
