"""What the fleet itself wants, asked over HTTPS: a desired state that came by way of the broker is only a hint to ask.

A broker can be wrong, old or hostile, and a counter cannot tell: whoever may write to it may count as high as he likes.
The fleet's answer over TLS under the pinned CA is its own and of this moment. So it decides alone: what it confirms is
begun whatever the counters say, what it does not want is not begun, and no message can use up the counter.

Where the fleet does not answer, the hint is all there is. It is then taken if its counter is newer than all that were
confirmed or verified, and nothing is fetched for it before the fleet has answered; a release that lies on the disk and has
proved itself here can be gone back to.

Hints that led to nothing make the next ones wait, so that a flood of them costs a question a minute and interrupts
no download.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from edge_agent.errors import FleetUnreachableError, ReleaseRefusedError
from edge_agent.installation.acceptance import Novelty, novelty
from edge_agent.installation.events import Asked
from edge_agent.installation.inbox import Inbox
from edge_agent.installation.journal import Journal
from protocol.messages.payloads import DesiredState
from runtime.errors import FedgeError

__all__ = ["AskFleet", "Wishes"]

log: Final = logging.getLogger(__name__)

AskFleet = Callable[[], DesiredState | None]
"""Asks the fleet over HTTPS what this device shall run; None: nothing. Raises FleetError."""

FIRST_HOLD_S: Final = 10.0
LONGEST_HOLD_S: Final = 60.0
"""How long a hint waits after one that led to nothing; the true one is late by as much at most."""

_TOLD_FOR_S: Final = 86_400.0
"""How long a person is told of a forged hint after the last one."""


class Wishes:
    """Looks hints up at the fleet.

    Args:
        ask: see `AskFleet`; None where there is no fleet to ask.
        inbox: makes later hints wait, and knows the time.
    """

    def __init__(self, ask: AskFleet | None, inbox: Inbox) -> None:
        self._ask = ask
        self._inbox = inbox
        self._hold_s = 0.0
        self._forged = 0
        self._forged_s = float("-inf")
        self._last_forged: DesiredState | None = None

    def look_up(self, journal: Journal, hint: Asked) -> Asked | None:
        """What the hint is worth: itself, confirmed or not, what the fleet wants instead, or nothing."""
        desired = hint.desired
        is_known = novelty(journal, desired) in {Novelty.RUNNING, Novelty.ANSWERED}
        if self._ask is None or hint.is_confirmed or is_known:
            return hint
        try:
            wanted = self._ask()
        except FedgeError as error:
            log.warning(
                "desired_not_confirmed release=%s counter=%d error=%s",
                desired.release,
                desired.counter,
                error,
            )
            self._hold()
            return hint
        if wanted is not None and wanted.asks_the_same(desired):
            self._hold_s = 0.0
            return Asked(desired=wanted, is_confirmed=True)
        self._refuted(desired, wanted, journal)
        if wanted is None or novelty(journal, wanted) is Novelty.ANSWERED:
            return None
        return Asked(desired=wanted, is_confirmed=True)

    def confirm(self, desired: DesiredState) -> None:
        """Make sure that the fleet wants what is about to be fetched.

        Raises:
            FleetUnreachableError: it does not answer now.
            ReleaseRefusedError: it wants something else; that is asked for next.
        """
        if self._ask is None:
            return
        try:
            wanted = self._ask()
        except FleetUnreachableError:
            raise
        except FedgeError as error:
            raise FleetUnreachableError(f"the fleet did not say whether it wants this: {error}") from None
        if desired.asks_the_same(wanted):
            return
        if wanted is not None:
            self._inbox.put(Asked(desired=wanted, is_confirmed=True))
        raise ReleaseRefusedError(
            f"the fleet does not want {desired.release} under desired state {desired.counter}: {_words(wanted)}"
        )

    @property
    def problem(self) -> str:
        """What a person should know of hints, or empty."""
        if self._last_forged is None or self._inbox.now() - self._forged_s > _TOLD_FOR_S:
            return ""
        return (
            f"asked {self._forged} times for releases that the fleet does not want, last for {self._last_forged.release}: who else"
            " writes to the broker?"
        )

    def _refuted(self, desired: DesiredState, wanted: DesiredState | None, journal: Journal) -> None:
        self._hold()
        log.warning(
            "desired_refuted release=%s counter=%d fleet=%s", desired.release, desired.counter, _words(wanted)
        )
        # A broker may bring an old wish after a new one; a newer one than there ever was is nobody's but a forger's.
        newest = wanted.counter if wanted is not None else journal.highest_counter
        if desired.counter > newest:
            self._forged += 1
            self._forged_s, self._last_forged = self._inbox.now(), desired

    def _hold(self) -> None:
        self._hold_s = min(LONGEST_HOLD_S, max(FIRST_HOLD_S, 2 * self._hold_s))
        self._inbox.hold(self._hold_s)


def _words(wanted: DesiredState | None) -> str:
    return "it wants nothing" if wanted is None else f"it wants {wanted.release} ({wanted.counter})"
