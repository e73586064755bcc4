"""How one stage of a secure round is passed: its messages are sent, each answer is handed to the role, until there are enough.

It does not know what the messages mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from aggregator.rounds.cohort_link import Ticket
from aggregator.rounds.reports import CohortTally, RoundCanceledError
from aggregator.rounds.stage_link import StageLink, StageRequest
from protocol.names import DeviceId

__all__ = ["StagePasser"]

LOOK_EVERY_S: Final = 0.25
"""Longest wait between two looks at the clock and at `canceled`; replies wake the collector at once."""


class StagePasser:
    """Passes stages through a link for one round.

    Args:
        link: the road.
        tally: gets the fate of each device.
        clock: monotonic seconds.
        grace_s: how long stragglers are waited for once `enough` have answered.
        canceled: asked a few times a second; True ends the round.
    """

    def __init__(
        self,
        link: StageLink,
        tally: CohortTally,
        *,
        clock: Callable[[], float],
        grace_s: float,
        canceled: Callable[[], bool],
    ) -> None:
        self._link, self._tally, self._clock = link, tally, clock
        self._grace_s, self._canceled = grace_s, canceled

    def run(
        self,
        requests: Sequence[StageRequest],
        take: Callable[[DeviceId, bytes], None],
        *,
        deadline_s: float,
        is_enough: Callable[[frozenset[DeviceId]], bool],
        grace_s: float | None = None,
    ) -> None:
        """Send, hear, hand over, until everybody has answered, enough have and the grace is over, or the deadline.

        Args:
            requests: of this stage, all of one kind; more than one where devices are asked different things.
            take: hands one answer to the role; a SecureSumError leaves that device out.
            deadline_s: seconds from now.
            is_enough: told, after each answer, whose answers are still out.
            grace_s: this stage's own, instead of the round's.

        Raises:
            RoundCanceledError: somebody asked for the round to end.
            FlowerRunEndedError: the transport's run is over.
        """
        grace = self._grace_s if grace_s is None else grace_s
        self._tally.begin(requests[0].kind)
        started = self._clock()
        waiting: dict[Ticket, DeviceId] = {}
        for request in requests:
            sent = self._link.send(request, lifetime_s=deadline_s)
            self._tally.lose(set(request.messages) - set(sent.values()))
            waiting |= sent
        closes_at = started + deadline_s
        has_enough = False
        try:
            while waiting and self._clock() < closes_at:
                if self._canceled():
                    raise RoundCanceledError(
                        f"the round was canceled while {len(waiting)} answers to {requests[0].kind} were out",
                        self._tally.report((), 0.0),
                    )
                left = max(closes_at - self._clock(), 0.0)
                for reply in self._link.replies(tuple(waiting), wait_s=min(left, LOOK_EVERY_S)):
                    del waiting[reply.ticket]
                    self._tally.take(reply, take)
                    if not has_enough and is_enough(frozenset(waiting.values())):
                        has_enough = True
                        closes_at = min(closes_at, self._clock() + grace)
        finally:
            self._link.withdraw(tuple(waiting))
        (self._tally.spare if has_enough else self._tally.lose)(waiting.values())
