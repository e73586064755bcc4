"""One device's part in a training run: pull a question, answer it, again, until the run ends.

::

    activate ─► pull ─► ClientApp ─► reply ─► pull ...           every road may fail at every arrow
       ▲         │ unreachable: wait, longer each time, and go on where it was, until the invitation expires
       └─────────┘ refused: the roster may be behind, so try for a while; then give up

It decides how failures are met and nothing else: questions are `client_app`'s, the wire is `flower_client`'s. An answer whose
run has ended meanwhile (the aggregator was restarted, the round closed) is dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from edge_agent.errors import AggregatorAnswerError, AggregatorRefusedError, AggregatorUnreachableError
from edge_agent.learner.flower_internals import ClientApp, Context, Error, ErrorCode, Message, RecordDict
from edge_agent.learner.learner_stats import LearnerState, LearnerStats, Traffic
from protocol.messages.payloads import TrainingInvitation
from protocol.questions import TRAINING_KINDS
from protocol.refusals import RefusalCode, write_refusal
from runtime.backoff import backoff_s

__all__ = ["FlowerRoad", "Participation", "Patience"]

_log: Final = logging.getLogger(__name__)
_Result = TypeVar("_Result")

HEARTBEAT_EVERY_S: Final = 6.0
"""The aggregator expects one every 10 s, and gives a device up after twice that: one lost heartbeat changes nothing."""


class FlowerRoad(Protocol):
    """The road to the aggregator: `edge_agent.learner.flower_client.FlowerClient`, which documents each call."""

    @property
    def traffic(self) -> Traffic:
        """What went over it so far."""

    def activate(self) -> None: ...  # noqa: D102 - see FlowerClient

    def heartbeat(self) -> None: ...  # noqa: D102 - see FlowerClient

    def deactivate(self) -> None: ...  # noqa: D102 - see FlowerClient

    def pull(self) -> Message | None: ...  # noqa: D102 - see FlowerClient

    def reply(self, message: Message) -> None: ...  # noqa: D102 - see FlowerClient


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long and how often to try.

    `poll_s` between two empty pulls. `first_wait_s` doubles up to `longest_wait_s` while the aggregator is away: a
    fleet is back within seconds, and does not come back all at once (each wait is drawn between half and whole).
    `refusals_s`: how long a refused key is tried again, as the roster follows an enrolment with a delay.
    """

    poll_s: float = 0.1
    first_wait_s: float = 0.2
    longest_wait_s: float = 5.0
    refusals_s: float = 30.0


class Participation:
    """Takes part until `stop` is set or the invitation expires.

    Args:
        road: to the aggregator.
        app: answers messages.
        invitation: to the run; once it has expired nothing is tried any more.
        now: Unix seconds.
        clock: monotonic seconds.
        stop: set by a signal; every wait ends with it.
        show: told whenever the stats change.
        draw: uniform in [0, 1), spreads the waits of a fleet.
        settle: told when an update was taken, in plain or masked.
    """

    def __init__(
        self,
        road: FlowerRoad,
        app: ClientApp,
        invitation: TrainingInvitation,
        *,
        now: Callable[[], float],
        clock: Callable[[], float],
        stop: threading.Event,
        show: Callable[[LearnerStats], None],
        patience: Patience = Patience(),
        draw: Callable[[], float],
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._road, self._app, self._invitation = road, app, invitation
        self._now, self._clock, self._stop, self._show = now, clock, stop, show
        self._patience, self._draw, self._settle = patience, draw, settle
        self._is_active = False
        self._rounds = self._refused = 0
        self._refused_since: float | None = None

    def take_part(self) -> bool:
        """Run to the end; returns whether the aggregator ever let this device in.

        Raises:
            AggregatorRefusedError: the device's key was refused for longer than `Patience.refusals_s`.
        """
        joined = False
        try:
            self._report(LearnerState.JOINING)
            joined = self._persist(lambda: True) is True
            heartbeats = threading.Thread(target=self._send_heartbeats, name="heartbeats", daemon=True)
            heartbeats.start()
            while not self._is_over():
                self._report(LearnerState.WAITING)
                message = self._pull()
                if message is None:
                    self._stop.wait(self._patience.poll_s)
                else:
                    self._answer(message)
        finally:
            if joined:
                self._leave()
            self._report(LearnerState.ENDED)
        return joined

    def _pull(self) -> Message | None:
        try:
            return self._persist(self._road.pull)
        except AggregatorAnswerError as error:
            _log.warning("question_dropped %s", error)
            return None

    def _answer(self, message: Message) -> None:
        self._report(LearnerState.ANSWERING)
        context = Context(
            run_id=message.metadata.run_id,
            node_id=message.metadata.dst_node_id,
            node_config={},
            state=RecordDict(),
            run_config={},
        )
        try:
            reply = self._app(message, context)
        except Exception:  # noqa: BLE001 - a question must not end the learner, and the aggregator hears no more than that it failed
            _log.exception("question_failed")
            failed = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, write_refusal(RefusalCode.FAILED))
            reply = Message(failed, reply_to=message)
        try:
            self._persist(lambda: self._road.reply(reply))
        except AggregatorAnswerError as error:
            _log.info("answer_dropped %s", error)
            return
        if reply.has_error():
            self._refused += 1
        elif message.metadata.message_type in TRAINING_KINDS:
            self._rounds += 1
            # Masked ones, too: who is slow to be asked for shares is in the sum nevertheless, and must not enter another.
            self._settle()

    def _persist(self, call: Callable[[], _Result]) -> _Result | None:
        """The call's result, made as an active node, however often the aggregator is away meanwhile; None when the run is over first."""
        attempt, patience = 0, self._patience
        while not self._is_over():
            try:
                if not self._is_active:
                    self._road.activate()
                    self._is_active = True
                result = call()
            except AggregatorUnreachableError as error:
                _log.info("aggregator_unreachable %s", error)
            except AggregatorRefusedError:
                # Perhaps the aggregator lost its database and knows this key under another node: introduce ourselves again.
                self._is_active = False
                self._refused_since = (
                    self._refused_since if self._refused_since is not None else self._clock()
                )
                if self._clock() - self._refused_since > patience.refusals_s:
                    raise
            else:
                self._refused_since = None
                return result
            self._report(LearnerState.RECONNECTING)
            attempt += 1
            self._stop.wait(
                backoff_s(
                    attempt,
                    first_s=patience.first_wait_s,
                    maximum_s=patience.longest_wait_s,
                    draw=self._draw(),
                )
            )
        return None

    def _send_heartbeats(self) -> None:
        while not self._stop.wait(HEARTBEAT_EVERY_S) and not self._is_over():
            try:
                self._road.heartbeat()
            except (AggregatorUnreachableError, AggregatorRefusedError, AggregatorAnswerError) as error:
                # The other thread meets the same failure and knows what to do about it.
                _log.debug("heartbeat_lost %s", error)

    def _leave(self) -> None:
        try:
            self._road.deactivate()
        except (AggregatorUnreachableError, AggregatorRefusedError, AggregatorAnswerError) as error:
            _log.debug("leave_unheard %s", error)

    def _is_over(self) -> bool:
        return self._stop.is_set() or self._now() >= self._invitation.expires_at

    def _report(self, state: LearnerState) -> None:
        traffic = self._road.traffic
        self._show(
            LearnerStats(
                run_id=self._invitation.run_id,
                state=state,
                rounds=self._rounds,
                sent_bytes=traffic.sent_bytes,
                received_bytes=traffic.received_bytes,
                refused=self._refused,
            )
        )
