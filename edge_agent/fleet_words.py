"""Whether what is said in the fleet's name is the fleet's: desired states, commands with settings, acknowledgements.

::

    broker ─► not too many ─► decode ─┐                (else the newest waits)
    HTTPS ──────────────────► decode ─┴─► sealed by a key of role `fleet`, for this device, not ended? ─► obeyed, if it is news
                                                 └─ no ─► counted, told, never obeyed ─► the fleet is asked, and the repository

A seal by a key that is not known here may be the fleet's next key: such a word is kept, and looked at again once the repository
(`edge_agent.update_trust`) names other keys. Before it was ever read, all words wait so, and none is counted as refused. Whether a word is news is for those who obey to say: they know the counter.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from edge_agent.allowance import Allowance
from protocol.errors import SealError
from protocol.messages.envelope import Event, kind_of
from protocol.messages.kinds import Kind
from protocol.sealed_events import check_seal

__all__ = ["FleetKeys", "FleetWords"]

log: Final = logging.getLogger(__name__)

FleetKeys = Callable[[], tuple[EllipticCurvePublicKey, ...]]
"""Whose words are obeyed; empty while nobody's are."""

TOLD_FOR_S: Final = 86_400.0
"""How long a person is told of a word that was not the fleet's, after the last one."""
_ASK_EVERY_S: Final = 60.0
_MOST_TOLD: Final = 32
"""Different complaints in the log of one start; the counter goes on."""


class FleetWords:
    """One thread, the loop's.

    Args:
        tenant, device: for whom words must be.
        keys: whose they must be.
        earliest_s: Unix seconds, the earliest that it can be.
        monotonic: seconds.
        doubt: called, once a minute at most, when something came that is not believed: the repository may have changed.
    """

    def __init__(
        self,
        *,
        tenant: str,
        device: str,
        keys: FleetKeys,
        earliest_s: Callable[[], float],
        monotonic: Callable[[], float],
        doubt: Callable[[], None] = lambda: None,
    ) -> None:
        self._tenant, self._device = tenant, device
        self._keys, self._earliest_s, self._monotonic = keys, earliest_s, monotonic
        self._doubt = doubt
        self._doubts = Allowance(burst=1, every_s=_ASK_EVERY_S, monotonic=monotonic)
        # What a forged one costs is a signature to check: half a millisecond on a small board. Acknowledgements come several a second
        # while a backlog is sent, the others a few a day.
        self._looks = {
            Kind.ACK: Allowance(burst=100, every_s=0.02, monotonic=monotonic),
            Kind.DESIRED: Allowance(burst=20, every_s=1.0, monotonic=monotonic),
            Kind.COMMANDS: Allowance(burst=20, every_s=1.0, monotonic=monotonic),
        }
        self._doubtful: dict[Kind, Event] = {}
        self._doubted_under: tuple[EllipticCurvePublicKey, ...] = ()
        self._told: set[str] = set()
        self._refused, self._last, self._last_s = 0, "", float("-inf")

    def may_look(self, kind: Kind) -> bool:
        """Whether another message of the broker is looked at now: whoever floods shall not have the processor."""
        return self._looks[kind].take()

    def pass_over(self, kind: Kind) -> None:
        """Count a message that is not looked at."""
        self._note(kind, "more came than are looked at; who else writes to the broker?")

    def is_fleets(self, event: Event) -> bool:
        """Whether the fleet said this to this device, and it still holds."""
        kind, keys = kind_of(event.data), self._keys()
        if (
            not keys
        ):  # of a device that has just joined: no attack, and no complaint once the repository is here
            self._keep(kind, event, keys)
            self._ask()
            return False
        try:
            check_seal(event, keys, tenant=self._tenant, device=self._device, now_s=self._earliest_s())
        except SealError as error:
            self._note(kind, str(error))
            self._keep(kind, event, keys)
            return False
        self._doubtful.pop(kind, None)
        return True

    def take_doubtful(self) -> list[Event]:
        """Words that were not believed and may be by now, because other keys are known."""
        if not self._doubtful or self._keys() == self._doubted_under:
            return []
        again = list(self._doubtful.values())
        self._doubtful.clear()
        return again

    @property
    def refused(self) -> int:
        """How many messages in the fleet's name were not believed, in this start."""
        return self._refused

    @property
    def problem(self) -> str:
        """What a person should know, or empty."""
        if not self._keys() and self._doubtful:
            return "nobody's words are obeyed yet: the fleet's signed repository is not known here"
        if self._monotonic() - self._last_s > TOLD_FOR_S:
            return ""
        return (
            f"{self._refused} messages in the fleet's name were not obeyed, the last one because {self._last}"
        )

    def _note(self, kind: Kind, why: str) -> None:
        self._refused += 1
        self._last, self._last_s = why, self._monotonic()
        said = re.sub(r"\d+", "#", f"{kind.value}: {why}")
        if said not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(said)
            log.warning("fleet_word_refused kind=%s error=%s", kind.value, why)
        self._ask()

    def _keep(self, kind: Kind, event: Event, keys: tuple[EllipticCurvePublicKey, ...]) -> None:
        if event.seal is not None and kind is not Kind.ACK:
            self._doubtful[kind], self._doubted_under = event, keys

    def _ask(self) -> None:
        if self._doubts.take():
            self._doubt()
