"""Who did what in a secure round, stage by stage, and how one stage is passed.

`StagePasser` sends one stage's messages, hands each answer to the role, and decides when the stage has enough; `StageTally`
ends as the round's report. Neither knows what the messages mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from aggregator.rounds.reports import CohortReport, Refusal, RoundCanceledError
from aggregator.rounds.stage_link import StageLink, StageReply, StageRequest
from protocol.names import DeviceId
from protocol.secure_sum.errors import SecureSumError

__all__ = ["StagePasser", "StageTally"]

LOOK_EVERY_S: Final = 0.25
"""Longest wait between two looks at the clock and at `canceled`; replies wake the collector at once."""


class StageTally:
    """The fate of each device of a round; the first reason that takes a device out is the one that is told."""

    def __init__(self, devices: Iterable[DeviceId]) -> None:
        self._devices = tuple(devices)
        self._refused: dict[DeviceId, str] = {}
        self._lost: list[DeviceId] = []
        self._spared: list[DeviceId] = []
        self.seconds_in_training = 0.0

    def refuse(self, device: DeviceId, reason: str) -> None:
        """The device refused, or was refused."""
        self._refused.setdefault(device, reason)

    def lose(self, devices: Iterable[DeviceId]) -> None:
        """Nothing was heard of these in time."""
        self._lost.extend(device for device in devices if device not in self._lost)

    def spare(self, devices: Iterable[DeviceId]) -> None:
        """These were not waited for."""
        self._spared.extend(device for device in devices if device not in self._spared)

    def report(self, participants: Iterable[DeviceId], seconds: float) -> CohortReport:
        """The round's report; whoever is in the sum is a participant whatever happened later."""
        inside = tuple(participants)
        refused = {d: r for d, r in self._refused.items() if d not in inside}
        spared = tuple(d for d in self._spared if d not in inside and d not in refused)
        heard = {*inside, *refused, *spared}
        return CohortReport(
            participants=inside,
            refused=tuple(Refusal(device=device, reason=reason) for device, reason in refused.items()),
            lost=tuple(device for device in self._devices if device not in heard and device in self._lost),
            spared=spared,
            seconds=seconds,
            seconds_in_training=self.seconds_in_training,
        )


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
        tally: StageTally,
        *,
        clock: Callable[[], float],
        grace_s: float,
        canceled: Callable[[], bool],
    ) -> None:
        self._link, self._tally, self._clock = link, tally, clock
        self._grace_s, self._canceled = grace_s, canceled

    def run(
        self,
        request: StageRequest,
        take: Callable[[DeviceId, bytes], None],
        *,
        deadline_s: float,
        is_enough: Callable[[int], bool],
        grace_s: float | None = None,
    ) -> None:
        """Send, hear, hand over, until everybody has answered, enough have and the grace is over, or the deadline.

        Args:
            request: of this stage.
            take: hands one answer to the role; a SecureSumError leaves that device out.
            deadline_s: seconds from now.
            is_enough: told how many answers were taken.
            grace_s: this stage's own, instead of the round's.

        Raises:
            RoundCanceledError: somebody asked for the round to end.
            FlowerRunEndedError: the transport's run is over.
        """
        grace = self._grace_s if grace_s is None else grace_s
        started = self._clock()
        waiting = self._link.send(request, lifetime_s=deadline_s)
        self._tally.lose(set(request.messages) - set(waiting.values()))
        taken, closes_at = 0, started + deadline_s
        has_enough = False
        try:
            while waiting and self._clock() < closes_at:
                if self._canceled():
                    raise RoundCanceledError(
                        f"the round was canceled while {len(waiting)} answers to {request.kind} were out",
                        self._tally.report((), 0.0),
                    )
                left = max(closes_at - self._clock(), 0.0)
                for reply in self._link.heard(tuple(waiting), wait_s=min(left, LOOK_EVERY_S)):
                    del waiting[reply.ticket]
                    taken += self._hand_over(reply, take)
                    if not has_enough and is_enough(taken):
                        has_enough = True
                        closes_at = min(closes_at, self._clock() + grace)
        finally:
            self._link.withdraw(tuple(waiting))
        (self._tally.spare if has_enough else self._tally.lose)(waiting.values())

    def _hand_over(self, reply: StageReply, take: Callable[[DeviceId, bytes], None]) -> bool:
        if reply.message is None:
            if reply.lost:
                self._tally.lose([reply.device])
            else:
                self._tally.refuse(reply.device, reply.failure)
            return False
        try:
            take(reply.device, reply.message)
        except SecureSumError as rejected:
            self._tally.refuse(reply.device, f"{type(rejected).__name__}: {rejected}")
            return False
        self._tally.seconds_in_training = max(self._tally.seconds_in_training, reply.seconds_in_training)
        return True
