"""The devices' part of a run: inviting them, waiting for them, asking a cohort one question.

An `Attendance` lasts while devices take part. It opens the Flower session and posts the invitation when it is made, so a
run that resumes after a kill simply makes a new one; it takes both down when it is closed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from aggregator.privacy.history import HeldRound
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.ports import Federation, InvitationBoard, Member, Session
from aggregator.rounds.reports import CohortReport, CohortSum, QuorumMissedError, RoundCanceledError
from aggregator.rounds.run_groups import is_grouped
from aggregator.rounds.runs import RoundRecord, TrainingRun
from aggregator.rounds.silence import Silence, SilentDevices
from protocol.messages.payloads import TrainingInvitation
from protocol.names import DeviceId

__all__ = ["Attendance", "Pacing"]

LOOK_EVERY_S: Final = 0.1
"""How often joining devices are counted."""


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """Time, chance and interruption, handed in: `now` Unix seconds, `sleep` seconds, `is_stopping` the service's own end.

    `draw` is uniform in [0, 1) and spreads the attempts of services that failed together.
    """

    now: Callable[[], float]
    sleep: Callable[[float], object]
    is_stopping: Callable[[], bool]
    draw: Callable[[], float]


class Attendance:
    """The devices of one run.

    Args:
        run: with `base_release` and `layout_sha256` set.
        policy: of the family.
        members: the family's devices by the fleet.
        flower_address: what devices are told to dial.
        is_canceled: whether somebody asked for the run to end.
        earlier: the family's rounds of late, oldest first, of whose silent devices this run shall know.
        answered: what the ledger holds of the family's rounds, now.
    """

    def __init__(
        self,
        run: TrainingRun,
        policy: FamilySettings,
        members: Sequence[Member],
        *,
        federation: Federation,
        board: InvitationBoard,
        flower_address: str,
        pacing: Pacing,
        is_canceled: Callable[[], bool],
        earlier: Iterable[RoundRecord] = (),
        answered: Callable[[], Iterable[HeldRound]] = tuple,
    ) -> None:
        self._run, self._policy, self._board, self._pacing = run, policy, board, pacing
        self._is_canceled, self.answered = is_canceled, answered
        self._roster = {member.device: member.public_key for member in members}
        self._wanted = _wanted_devices(policy, sum(member.is_online for member in members))
        self._has_gathered = False
        self._silent = SilentDevices(chain(earlier, run.log))
        self._left_out: dict[DeviceId, Silence] = {}
        self._asked = 0
        self._session: Session = federation.open(run.id, self._roster, policy)
        now = pacing.now()
        board.post(
            TrainingInvitation(
                run_id=run.id,
                family=run.family,
                base_release=run.base_release or "",
                layout_sha256=run.layout_sha256 or "",
                flower_address=flower_address,
                issued_at=now,
                expires_at=now + _longest_run_s(policy, run),
                minimum_windows=policy.rounds.minimum_windows,
                spread_s=policy.rounds.join_spread_s,
            )
        )

    def close(self, outcome: str, *, is_over: bool) -> None:
        """End the session with `outcome` (a run state, for the logs); take the invitation down if the run `is_over`.

        An invitation that stands (the session broke, the service restarts) keeps the learners waiting for the next session.
        """
        if is_over:
            self._board.clear(self._run.family)
        self._session.close(outcome)

    def gather(self) -> frozenset[DeviceId]:
        """Wait for devices and return who is there, possibly fewer than the quorum.

        The first time it waits for everyone wanted, for a settled quorum, or for the join timeout; later only until
        the quorum stands, because who left may never return. Who was silent of late does not count
        (`aggregator.rounds.silence`); where only such devices are missing, the wait is short: they are there already.

        Raises:
            RoundCanceledError: the run or the service is ending.
        """
        policy, pacing = self._policy, self._pacing
        started = changed = pacing.now()
        joined: frozenset[DeviceId] = frozenset()
        while True:
            self._raise_if_ending()
            now = pacing.now()
            there = self._there()
            self._left_out = self._silent.left_out(there, now)
            seen = frozenset(there) - self._left_out.keys()
            if seen - joined:
                changed = now
            joined = seen
            has_quorum = len(joined) >= policy.cohort.minimum_devices
            is_quiet = now - changed >= policy.rounds.join_settle_s
            is_settled = has_quorum and (self._has_gathered or is_quiet)
            is_vain = self._has_gathered and is_quiet and len(there) >= policy.cohort.minimum_devices
            is_late = now - started >= policy.rounds.join_timeout_s
            wanted = max(self._wanted - len(self._left_out), policy.cohort.minimum_devices)
            if len(joined) >= wanted or is_settled or is_vain or is_late:
                self._has_gathered, self._asked = has_quorum, len(joined)
                return joined
            pacing.sleep(LOOK_EVERY_S)

    def present(self) -> frozenset[DeviceId]:
        """Who is there at this moment and was not silent of late."""
        there = self._there()
        return frozenset(there) - self._silent.left_out(there, self._pacing.now()).keys()

    def ask(self, asked: CohortQuestion, cohort: Cohort) -> CohortSum:
        """Put a question to a cohort within the family's deadline; raises as `Collector.collect` does."""
        try:
            answer = self._session.collector.collect(
                asked, cohort, deadline_s=self._policy.rounds.deadline_s, canceled=self._is_ending
            )
        except QuorumMissedError as missed:
            self._note(missed.report, cohort)
            raise
        self._note(answer, cohort)
        return answer

    @property
    def shortage(self) -> str:
        """Why there was no quorum when devices were last gathered, where silent ones are why; else empty."""
        fewest = self._policy.cohort.minimum_devices
        if not self._left_out or self._asked >= fewest or self._asked + len(self._left_out) < fewest:
            return ""
        who = "; ".join(silence.words(device) for device, silence in sorted(self._left_out.items()))
        return f"{self._asked} devices can be asked, the quorum is {fewest}: {who}"

    def _there(self) -> dict[DeviceId, str]:
        """Stamp of its joining by device of the family."""
        return {device: stamp for device, stamp in self._session.joined().items() if device in self._roster}

    def _note(self, report: CohortReport, cohort: Cohort) -> None:
        joinings = self._session.joined()
        self._silent.note(report, asked=len(cohort.devices), at=self._pacing.now(), joinings=joinings)

    def _is_ending(self) -> bool:
        return self._is_canceled() or self._pacing.is_stopping()

    def _raise_if_ending(self) -> None:
        if self._is_ending():
            raise RoundCanceledError("the run ended while devices were joining", CohortReport())


def _wanted_devices(policy: FamilySettings, online: int) -> int:
    # Whoever is not in a group when they are dealt is in none while the run trains.
    drawn = 1.0 if is_grouped(policy) else policy.cohort.fraction * policy.cohort.over_selection
    share = math.ceil(drawn * online)
    return max(min(share, online), policy.cohort.minimum_devices)


def _longest_run_s(policy: FamilySettings, run: TrainingRun) -> float:
    """How long the run can last from now: each question asked as often and as slowly as the policy allows."""
    # After the rounds: at most the three that make a prior, and the assessment.
    questions = run.rounds - run.finished_rounds + 4
    return (
        (questions + 1) * policy.rounds.attempts * (policy.rounds.join_timeout_s + policy.rounds.deadline_s)
    )
