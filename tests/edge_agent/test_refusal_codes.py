"""What crosses of a refusal or a failure: one of twelve codes, neither words nor names, and not before its time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from answerers import NO_GRID, Answers

from edge_agent.errors import (
    FleetUnreachableError,
    PlainAnswerRefusedError,
    PrivacyRefusedError,
    QuestionRefusedError,
    TrainingDivergedError,
)
from edge_agent.learner.client_app import client_app
from edge_agent.learner.flower_internals import ConfigRecord, Context, Message, RecordDict
from edge_agent.learner.refusals import code_of
from edge_agent.learner.time_grid import FIRST_S, TimeGrid
from models.errors import ExecutionError, ParameterError
from protocol.errors import QuestionError
from protocol.questions import FIT, KINDS, FitQuestion, encode_question
from protocol.refusals import RefusalCode
from protocol.secure_sum import errors as sums
from protocol.sum_terms import SumStage
from runtime.errors import StorageError

pytestmark = pytest.mark.edge

SECRET = "window 17 is 3.14159"
QUESTION = RecordDict(
    {
        "question": ConfigRecord(
            {
                "json": encode_question(
                    FitQuestion(run_id="r", round_number=1, layout_sha256="0" * 64, profile_sha256="0" * 64)
                )
            }
        )
    }
)


class FailingSums:
    """Every stage of a sum fails in the same way."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    def _fail(self, *_: object) -> bytes:
        raise self.failure

    advertise = share_keys = mask = confirm = unmask = _fail


def ask(app: object, kind: str, content: RecordDict) -> Message:
    from flwr.app import Metadata
    from flwr.app.message import make_message

    metadata = Metadata(
        run_id=1, message_id="m", src_node_id=1, dst_node_id=2, reply_to_message_id="", group_id="",
        created_at=4e9, ttl=60.0, message_type=kind,
    )  # fmt: skip
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    return app(make_message(metadata=metadata, content=content), context)  # type: ignore[operator]  # an app


FAILURES: list[tuple[Exception, RefusalCode]] = [
    (sums.SumMessageError(SECRET), RefusalCode.NOT_ASKED),
    (QuestionError(SECRET), RefusalCode.NOT_ASKED),
    (sums.AnnouncementMismatchError(SECRET), RefusalCode.TERMS),
    (sums.UnknownDeviceError(SECRET), RefusalCode.ROSTER),
    (sums.AdvertisementError(SECRET), RefusalCode.ROSTER),
    (sums.KeyAgreementError(SECRET), RefusalCode.ROSTER),
    (sums.CohortTooSmallError(SECRET), RefusalCode.COHORT),
    (sums.ThresholdTooLowError(SECRET), RefusalCode.COHORT),
    (sums.TooFewSurvivorsError(SECRET), RefusalCode.COHORT),
    (sums.SurvivorMismatchError(SECRET), RefusalCode.COHORT),
    (sums.BothListsError(SECRET), RefusalCode.COHORT),
    (sums.GraphMismatchError(SECRET), RefusalCode.COHORT),
    (sums.SplitViewError(SECRET), RefusalCode.COHORT),
    (sums.RepeatedStageError(SECRET), RefusalCode.ORDER),
    (sums.StageOrderError(SECRET), RefusalCode.ORDER),
    (PlainAnswerRefusedError(SECRET), RefusalCode.PLAIN),
    (PrivacyRefusedError(RefusalCode.SNAPSHOT, SECRET), RefusalCode.SNAPSHOT),
    (QuestionRefusedError(RefusalCode.ARRAYS, SECRET), RefusalCode.ARRAYS),
    (TrainingDivergedError(SECRET), RefusalCode.FAILED),
    (ParameterError(SECRET), RefusalCode.FAILED),
    (ExecutionError(SECRET), RefusalCode.FAILED),
    (StorageError(SECRET), RefusalCode.FAILED),
    (FleetUnreachableError(SECRET), RefusalCode.FAILED),
    (MemoryError(SECRET), RefusalCode.FAILED),
    (ZeroDivisionError(SECRET), RefusalCode.FAILED),
]


def test_every_refusal_of_a_role_is_in_the_table() -> None:
    refusals = {
        kind
        for kind in vars(sums).values()
        if isinstance(kind, type) and kind.__base__ is sums.RefusedRoundError
    }
    assert refusals <= {type(failure) for failure, _ in FAILURES}
    assert all(code_of(kind("")) is not RefusalCode.FAILED for kind in refusals)


@pytest.mark.parametrize(("failure", "code"), FAILURES, ids=lambda one: type(one).__name__)
def test_only_a_code_crosses_whatever_failed_and_wherever(failure: Exception, code: RefusalCode) -> None:
    told: list[tuple[RefusalCode, str]] = []
    app = client_app(
        None, FailingSums(failure), grid=NO_GRID, told=lambda code, words: told.append((code, words))
    )
    content = RecordDict({"sum": ConfigRecord({"message": b"m", "terms": "{}"}), **QUESTION})
    for kind in (*KINDS, *SumStage):
        reply = ask(app, str(kind), content)
        assert not reply.has_content()
        assert reply.error.reason == f"refused: {code}"
    assert {told_code for told_code, _ in told} == {code}
    assert all(SECRET in words for _, words in told), "the owner hears the words"


def test_a_plain_answer_that_fails_tells_no_more() -> None:
    def diverge(*_: object) -> np.ndarray:
        raise TrainingDivergedError(SECRET)

    reply = ask(client_app(Answers(diverge), grid=NO_GRID), FIT, QUESTION)
    assert reply.error.reason == "refused: FAILED"


def test_answers_and_refusals_of_a_question_leave_on_the_grid_and_other_stages_at_once() -> None:
    slept: list[float] = []
    grid = TimeGrid(lambda: 0.0, slept.append)
    app = client_app(Answers(lambda *_: np.ones(3, np.float32)), FailingSums(MemoryError()), grid=grid)
    assert ask(app, FIT, QUESTION).has_content()
    assert ask(app, FIT, RecordDict({"sum": ConfigRecord({"message": b"m"}), **QUESTION})).has_error()
    assert slept == [pytest.approx(FIRST_S)] * 2
    for stage in SumStage:
        ask(app, stage, RecordDict({"sum": ConfigRecord({"message": b"m", "terms": "{}"})}))
    assert len(slept) == 2, "nothing of a stage depends on data"


@pytest.mark.parametrize("answers", [Answers(lambda *_: np.ones(3, np.float32)), None])
def test_a_reply_is_made_when_it_leaves_for_it_carries_the_time_of_that(answers: Answers | None) -> None:
    left_s: list[float] = []
    app = client_app(answers, grid=TimeGrid(lambda: 0.0, lambda _: left_s.append(time.time())))
    reply = ask(app, FIT, QUESTION)
    assert reply.metadata.created_at >= left_s[0]
