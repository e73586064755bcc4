"""How a learner survives its road: a fake road and a fake clock, the real ClientApp."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import numpy as np
import pytest
from answerers import NO_GRID, Answers
from flwr.app import Metadata
from flwr.app.message import make_message

from edge_agent.errors import AggregatorAnswerError, AggregatorRefusedError, AggregatorUnreachableError
from edge_agent.learner.client_app import client_app
from edge_agent.learner.flower_internals import ClientApp, ConfigRecord, Context, Message, RecordDict
from edge_agent.learner.learner_stats import LearnerState, LearnerStats, Traffic
from edge_agent.learner.participation import Participation, Patience
from protocol.messages.payloads import TrainingInvitation
from protocol.questions import FIT, FitQuestion, encode_question

pytestmark = pytest.mark.edge

QUESTION = FitQuestion(run_id="r", round_number=1, layout_sha256="0" * 64, profile_sha256="1" * 64)


def question() -> Message:
    metadata = Metadata(
        run_id=1, message_id="m", src_node_id=1, dst_node_id=2, reply_to_message_id="", group_id="",
        created_at=4e9, ttl=60.0, message_type=FIT,
    )  # fmt: skip
    return make_message(
        metadata=metadata, content=RecordDict({"question": ConfigRecord({"json": encode_question(QUESTION)})})
    )


class Stop(threading.Event):
    """An event whose waits move the clock instead of taking time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        # The heartbeat thread must not race the fake clock: it ends at its first wait.
        if threading.current_thread() is not threading.main_thread():
            return True
        self.now += timeout or 0.0
        return self.is_set()


class FakeRoad:
    """Does what the script says, call by call; afterwards there is nothing more to hear."""

    traffic = Traffic(sent_bytes=1, received_bytes=2)

    def __init__(self, **script: list[Callable[[], object]]) -> None:
        self.script, self.calls, self.replies = script, list[str](), list[Message]()

    def _next(self, name: str) -> object:
        self.calls.append(name)
        steps = self.script.get(name, [])
        return steps.pop(0)() if steps else None

    def activate(self) -> None:
        self._next("activate")

    def heartbeat(self) -> None:
        self._next("heartbeat")

    def deactivate(self) -> None:
        self._next("deactivate")

    def pull(self) -> Message | None:
        return self._next("pull")

    def reply(self, message: Message) -> None:
        self._next("reply")
        self.replies.append(message)


def fails(error: Exception) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


def take_part(
    road: FakeRoad,
    *,
    expires_at: float = 60.0,
    answer: Callable[..., np.ndarray] | None = None,
    app: ClientApp | None = None,
    settle: Callable[[], None] = lambda: None,
) -> tuple[bool, list[LearnerStats], Stop]:
    stop, shown = Stop(), list[LearnerStats]()
    participation = Participation(
        road,
        app or client_app(Answers(answer or (lambda *_: np.zeros(2, np.float32))), grid=NO_GRID),
        TrainingInvitation(
            run_id="r",
            family="f",
            base_release="f/1",
            layout_sha256="0" * 64,
            flower_address="localhost:1",
            issued_at=0.0,
            expires_at=expires_at,
        ),
        now=lambda: stop.now,
        clock=lambda: stop.now,
        stop=stop,
        show=shown.append,
        patience=Patience(refusals_s=10.0),
        draw=random.Random(0).random,
        settle=settle,
    )
    return participation.take_part(), shown, stop


def test_answers_until_the_invitation_expires_then_leaves() -> None:
    road = FakeRoad(pull=[question, question])
    joined, shown, stop = take_part(road, expires_at=5.0)
    assert joined
    assert len(road.replies) == 2
    assert road.calls[0] == "activate"
    assert road.calls[-1] == "deactivate"
    assert (shown[-1].state, shown[-1].rounds, shown[-1].sent_bytes) == (LearnerState.ENDED, 2, 1)
    assert stop.now == pytest.approx(5.0, abs=0.2)


def test_aggregator_that_is_away_is_waited_for_and_the_answer_is_not_lost() -> None:
    away = fails(AggregatorUnreachableError("down"))
    road = FakeRoad(activate=[away, away], pull=[away, question], reply=[away, away, away])
    joined, shown, _ = take_part(road)
    assert joined
    assert len(road.replies) == 1
    assert LearnerState.RECONNECTING in {stats.state for stats in shown}


def test_backoff_grows_and_stays_bounded() -> None:
    road = FakeRoad(activate=[fails(AggregatorUnreachableError("down"))] * 1000)
    joined, _, stop = take_part(road, expires_at=600.0)
    assert not joined
    assert "deactivate" not in road.calls
    assert 120 <= len(road.calls) <= 260  # 600 s at 2.5 to 5 s a try
    assert stop.now >= 600.0


def test_refused_key_is_tried_while_the_roster_may_lag_then_given_up() -> None:
    soon = FakeRoad(activate=[fails(AggregatorRefusedError("401"))] * 3, pull=[question])
    assert take_part(soon)[0]
    assert len(soon.replies) == 1
    with pytest.raises(AggregatorRefusedError):
        take_part(FakeRoad(activate=[fails(AggregatorRefusedError("401"))] * 100))


def test_aggregator_that_forgot_this_node_is_met_with_a_new_introduction() -> None:
    road = FakeRoad(pull=[fails(AggregatorRefusedError("401")), question])
    joined, _, _ = take_part(road)
    assert joined
    assert road.calls[:4] == ["activate", "pull", "activate", "pull"]
    assert len(road.replies) == 1


def test_garbage_question_and_unwanted_answer_are_dropped() -> None:
    garbage = fails(AggregatorAnswerError("no message"))
    road = FakeRoad(pull=[garbage, question, question], reply=[garbage])
    _, shown, _ = take_part(road)
    assert len(road.replies) == 1
    assert shown[-1].rounds == 1


def test_answer_that_breaks_becomes_an_error_reply_and_the_learner_goes_on() -> None:
    road = FakeRoad(pull=[question, question])

    def broken(*_: object) -> np.ndarray:
        raise ZeroDivisionError("no rows")

    _, shown, _ = take_part(road, answer=broken)
    assert [reply.error.reason for reply in road.replies] == ["refused: FAILED"] * 2
    assert (shown[-1].rounds, shown[-1].refused) == (0, 2)


def test_an_update_is_settled_when_it_was_taken_under_masks_or_not_and_only_then() -> None:
    def masked(message: Message, _: Context) -> Message:
        return Message(RecordDict({"sum": ConfigRecord({"message": b"words"})}), reply_to=message)

    for app in (None, masked):
        settled: list[int] = []
        road = FakeRoad(
            pull=[question, question], reply=[fails(AggregatorAnswerError("nobody waits")), lambda: None]
        )
        take_part(road, app=app, settle=lambda to=settled, by=road: to.append(len(by.replies)))
        assert settled == [1]
