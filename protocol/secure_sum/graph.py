"""Who is whose neighbour: the complete graph for small cohorts, a Harary ring over a random order for large ones.

Nobody chooses the order alone: it follows from the hash of everything the cohort agrees on, that is every device's signed
keys, the round, degree, threshold and generator. A device checks its own neighbours against the hash without seeing the
others' keys. The same hash goes into every pair seed: two devices that were shown different cohorts add masks that do not cancel.

A server that may leave devices out, or has colluders that make up new keys, can try many orders and pick one. Each try costs it
`_STRETCHING` hashes; what remains is covered by the secrecy bits of the plan, not by this module.

Source: Bell et al., CCS 2020, section 3.1; F. Harary, "The maximum connectivity of a graph", PNAS 48(7), 1962.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from protocol.names import DeviceId
from protocol.secure_sum.errors import GraphMismatchError, UnknownDeviceError
from protocol.secure_sum.keys import RoundBinding
from protocol.secure_sum.masks import MaskGenerator
from protocol.secure_sum.messages import Announcement
from protocol.secure_sum.planner import COMPLETE_UP_TO, SumPlan

__all__ = ["Cohort"]

_DOMAIN: Final = b"fedge/secure-sum/graph/v1"
_STRETCHING: Final = 1 << 13
"""PBKDF2 iterations between the hash and the order: 3 ms for each device, 14 bits more for whoever searches for an order."""


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The devices of one sum and everything they must agree on before their masks cancel.

    Attributes:
        session: of the attempt.
        round_number: of the run.
        digests: SHA-256 of each device's signed advertisement, by id.
        plan: degree and threshold.
        generator: of the masks.

    Raises:
        GraphMismatchError: the degree is not one this cohort can have.
    """

    session: str
    round_number: int
    digests: Mapping[DeviceId, bytes]
    plan: SumPlan
    generator: MaskGenerator

    def __post_init__(self) -> None:
        n, degree = len(self.digests), self.plan.degree
        if self.is_complete and degree != n - 1:
            raise GraphMismatchError(
                f"a cohort of {n} (up to {COMPLETE_UP_TO}) uses the complete graph, degree {n - 1}; got degree {degree}"
            )
        if not self.is_complete and (degree % 2 or not 2 <= degree <= n - 2):
            raise GraphMismatchError(
                f"a ring of {n} devices needs an even degree from 2 to {n - 2}, got {degree}"
            )

    @property
    def is_complete(self) -> bool:
        """Whether everybody is everybody's neighbour."""
        return len(self.digests) <= COMPLETE_UP_TO

    @cached_property
    def ids(self) -> tuple[DeviceId, ...]:
        """All devices, ascending: a device's position in this order is how lists of devices name it."""
        return tuple(sorted(self.digests))

    @cached_property
    def graph_hash(self) -> bytes:
        """SHA-256 over session, round, plan, generator and every (id, digest), each field with its length; 32 bytes."""
        whole = hashlib.sha256()
        terms = (
            self.session.encode(),
            *(
                number.to_bytes(8, "big")
                for number in (self.round_number, self.plan.degree, self.plan.threshold, len(self.ids))
            ),
            self.generator.encode(),
        )
        pairs = (field for device in self.ids for field in (device.encode(), self.digests[device]))
        for field in (_DOMAIN, *terms, *pairs):
            whole.update(len(field).to_bytes(2, "big") + field)
        return whole.digest()

    @cached_property
    def _positions(self) -> dict[DeviceId, int]:
        return {device: at for at, device in enumerate(self.ids)}

    @cached_property
    def _ring(self) -> tuple[int, ...]:
        """Positions in ring order: sorted by a hash that depends on all of the cohort."""
        seed = hashlib.pbkdf2_hmac("sha256", self.graph_hash, _DOMAIN, _STRETCHING)
        return tuple(
            sorted(range(len(self.ids)), key=lambda at: hashlib.sha256(seed + at.to_bytes(4, "big")).digest())
        )

    @cached_property
    def _place(self) -> dict[int, int]:
        return {position: place for place, position in enumerate(self._ring)}

    def position(self, device: DeviceId) -> int:
        """Where `device` stands among the ids; raises UnknownDeviceError for a stranger."""
        try:
            return self._positions[device]
        except KeyError:
            raise UnknownDeviceError(
                f"device {device!r} is not in this cohort of {len(self.ids)}; was it dropped before the cohort was settled?"
            ) from None

    def neighbours(self, device: DeviceId) -> tuple[DeviceId, ...]:
        """The devices `device` shares masks with, ascending; `plan.degree` of them."""
        if device not in self._neighbours:
            own = self.position(device)
            self._neighbours[device] = tuple(self.ids[at] for at in self._adjacent(own))
        return self._neighbours[device]

    def _adjacent(self, position: int) -> list[int]:
        n = len(self.ids)
        if self.is_complete:
            return [at for at in range(n) if at != position]
        place, half = self._place[position], self.plan.degree // 2
        return sorted(
            self._ring[(place + step) % n]
            for distance in range(1, half + 1)
            for step in (distance, -distance)
        )

    @cached_property
    def _neighbours(self) -> dict[DeviceId, tuple[DeviceId, ...]]:
        """Neighbourhoods asked for so far: the server asks for each several times."""
        return {}

    def holders(self, device: DeviceId) -> tuple[DeviceId, ...]:
        """Who holds a share of each secret of `device`, ascending.

        In the complete graph the device keeps one itself, as in Bonawitz et al. 2017, so that thresholds count among all n; in
        a ring it is the neighbours alone, as the plan's bounds count.
        """
        return self.ids if self.is_complete else self.neighbours(device)

    def binding(self, announcement: Announcement) -> RoundBinding:
        """What every pair seed of this round is bound to."""
        return RoundBinding(
            session=self.session,
            round_number=self.round_number,
            model_hash=announcement.model_hash,
            config_hash=announcement.config_hash,
            graph_hash=self.graph_hash,
        )

    def point(self, holder: DeviceId) -> int:
        """Where every sharing polynomial is evaluated for `holder`: its position + 1, never 0."""
        return self.position(holder) + 1
