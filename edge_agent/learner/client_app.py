"""The learner as a Flower ClientApp: messages in, messages out.

Nothing here knows the wire, so the same app also runs under a stock SuperNode. A question that is refused becomes a
Flower error reply with the reason in words; the learner goes on.

    secure sum (`protocol.sum_terms`)
    query.advertise, .share_keys, .confirm, .unmask:  ConfigRecord "sum" {"message"}  →  ConfigRecord "sum" {"message"}
    `protocol.questions.KINDS`:  "sum" + ConfigRecord "question" + ArrayRecord "arrays"
                              →  ConfigRecord "sum" {"message"} + MetricRecord "work" {"seconds"}
    in plain, only where this device's owner allows it
    `protocol.questions.KINDS`:  ConfigRecord "question" + ArrayRecord "arrays"
                              →  ArrayRecord "answer" {"vector"} + MetricRecord "work" {"seconds"}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import FleetError, LearnerError, PlainAnswerRefusedError, QuestionRefusedError
from edge_agent.learner.flower_internals import (
    Array,
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    Error,
    ErrorCode,
    Message,
    MetricRecord,
    RecordDict,
)
from models.errors import ModelError
from protocol.errors import ProtocolError
from protocol.flat_vectors import decode_vector
from protocol.questions import KINDS, Question, decode_question
from protocol.sum_terms import SumStage
from runtime.errors import StorageError

__all__ = ["Answerer", "SumSide", "client_app"]

Answerer = Callable[[Question, Mapping[str, NDArray[np.float32]]], NDArray[np.float32]]

MAXIMUM_ARRAYS: Final = 8
"""No question carries more than a contest's five."""

_REFUSALS: Final = (LearnerError, FleetError, StorageError, ProtocolError, ModelError)


class SumSide(Protocol):
    """The device's side of secure sums (`edge_agent.learner.sum_participant.SumParticipant`, which documents each stage)."""

    def advertise(self, message: bytes, terms_text: str) -> bytes: ...  # noqa: D102 - see SumParticipant

    def share_keys(self, message: bytes) -> bytes: ...  # noqa: D102 - see SumParticipant

    def mask(  # noqa: D102 - see SumParticipant
        self, message: bytes, question_text: str, arrays: Mapping[str, NDArray[np.float32]]
    ) -> bytes: ...

    def confirm(self, message: bytes) -> bytes: ...  # noqa: D102 - see SumParticipant

    def unmask(self, message: bytes) -> bytes: ...  # noqa: D102 - see SumParticipant


def client_app(
    plain: Answerer | None, sums: SumSide | None = None, *, clock: Callable[[], float]
) -> ClientApp:
    """Make the app.

    Args:
        plain: answers in plain, `LocalLearner.answer`; None where this device answers under masks only.
        sums: answers under masks.
        clock: monotonic seconds, to say how long an answer took.
    """
    app = ClientApp()

    def answer(message: Message, _: Context) -> Message:
        started = clock()
        try:
            content = _answer(message.content, plain, sums)
        except _REFUSALS as refusal:
            return _refused(message, refusal)
        content["work"] = MetricRecord({"seconds": clock() - started})
        return Message(content, reply_to=message)

    def stage(message: Message, _: Context) -> Message:
        try:
            content = _pass_stage(message, sums)
        except _REFUSALS as refusal:
            return _refused(message, refusal)
        return Message(content, reply_to=message)

    for kind in KINDS:
        category, _, action = kind.partition(".")
        (app.train if category == "train" else app.evaluate)(action)(answer)
    for name in SumStage:
        app.query(name.value.partition(".")[2])(stage)
    return app


def _answer(content: RecordDict, plain: Answerer | None, sums: SumSide | None) -> RecordDict:
    text, arrays = _read_question(content)
    if "sum" in content.config_records:
        return _sum_record(_required(sums).mask(_sum_message(content), text, arrays))
    if plain is None:
        raise PlainAnswerRefusedError(
            "the aggregator asks for an answer in plain; this device answers under a secure sum only"
            " (learner.plain_answers = true in agent.toml would allow it)"
        )
    return RecordDict({"answer": ArrayRecord({"vector": Array(plain(decode_question(text), arrays))})})


def _pass_stage(message: Message, sums: SumSide | None) -> RecordDict:
    side, content = _required(sums), _sum_message(message.content)
    match SumStage(message.metadata.message_type):
        case SumStage.ADVERTISE:
            terms = message.content.config_records["sum"].get("terms")
            if not isinstance(terms, str):
                raise QuestionRefusedError("the first stage of a secure sum carries no terms")
            return _sum_record(side.advertise(content, terms))
        case SumStage.SHARE:
            return _sum_record(side.share_keys(content))
        case SumStage.CONFIRM:
            return _sum_record(side.confirm(content))
        case SumStage.UNMASK:
            return _sum_record(side.unmask(content))


def _required(sums: SumSide | None) -> SumSide:
    if sums is None:
        raise QuestionRefusedError(
            "this device takes no part in secure sums: it has no fleet to get the roster from"
        )
    return sums


def _refused(message: Message, refusal: Exception) -> Message:
    # The name of the error is part of the protocol's vocabulary: an operator looks it up.
    words = str(refusal) if type(refusal) is QuestionRefusedError else f"{type(refusal).__name__}: {refusal}"
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, words), reply_to=message)


def _sum_record(message: bytes) -> RecordDict:
    return RecordDict({"sum": ConfigRecord({"message": message})})


def _sum_message(content: RecordDict) -> bytes:
    configs = content.config_records
    message = configs["sum"].get("message") if "sum" in configs else None
    if not isinstance(message, bytes):
        raise QuestionRefusedError("the message holds no config record 'sum' with the bytes 'message'")
    return message


def _read_question(content: RecordDict) -> tuple[str, dict[str, NDArray[np.float32]]]:
    """The question's text and its arrays; raises ProtocolError or QuestionRefusedError for anything else."""
    configs, records = content.config_records, content.array_records
    text = configs["question"].get("json") if "question" in configs else None
    if not isinstance(text, str):
        raise QuestionRefusedError("the message holds no config record 'question' with the text 'json'")
    arrays = records["arrays"] if "arrays" in records else ArrayRecord()
    if len(arrays) > MAXIMUM_ARRAYS:
        raise QuestionRefusedError(
            f"the question carries {len(arrays)} arrays; at most {MAXIMUM_ARRAYS} are read"
        )
    return text, {name: decode_vector(array.data) for name, array in arrays.items()}
