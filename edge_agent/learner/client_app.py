"""The learner as a Flower ClientApp: messages in, messages out.

Nothing here knows the wire, so the same app also runs under a stock SuperNode. A question that is refused becomes a Flower error reply
with one of twelve codes (`protocol.refusals`); so does whatever else goes wrong, and the learner goes on. Of errors nothing but the code
travels, neither words nor names: they may hold figures of this device's windows. Answers, and refusals in their stead, leave on a
grid of times (`time_grid`).

    secure sum (`protocol.sum_terms`)
    query.advertise, .share_keys, .confirm, .unmask:  ConfigRecord "sum" {"message"}  →  ConfigRecord "sum" {"message"}
    `protocol.questions.KINDS`:  "sum" + ConfigRecord "question" + ArrayRecord "arrays"
                              →  ConfigRecord "sum" {"message"}
    in plain, only where this device's owner allows it
    `protocol.questions.KINDS`:  ConfigRecord "question" + ArrayRecord "arrays"
                              →  ArrayRecord "answer" {"vector"}
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import PlainAnswerRefusedError, QuestionRefusedError
from edge_agent.learner.flower_internals import (
    Array,
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    Error,
    ErrorCode,
    Message,
    RecordDict,
)
from edge_agent.learner.refusals import code_of
from edge_agent.learner.time_grid import TimeGrid
from protocol.errors import ProtocolError
from protocol.flat_vectors import decode_vector
from protocol.questions import KINDS, Question, decode_question
from protocol.refusals import RefusalCode, write_refusal
from protocol.sum_terms import SumStage

__all__ = ["PlainSide", "SumSide", "client_app"]

_log: Final = logging.getLogger(__name__)

MAXIMUM_ARRAYS: Final = 8
"""No question carries more than the four of a curve's."""


class PlainSide(Protocol):
    """Answers in plain: `edge_agent.learner.local_learner.LocalLearner`, which documents both."""

    def check(self, question: Question, arrays: Mapping[str, NDArray[np.float32]]) -> None: ...  # noqa: D102 - see LocalLearner

    def answer(  # noqa: D102 - see LocalLearner
        self, question: Question, arrays: Mapping[str, NDArray[np.float32]]
    ) -> NDArray[np.float32]: ...


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
    plain: PlainSide | None,
    sums: SumSide | None = None,
    *,
    grid: TimeGrid,
    told: Callable[[RefusalCode, str], None] = lambda _code, _words: None,
) -> ClientApp:
    """Make the app.

    Args:
        plain: answers in plain; None where this device answers under masks only.
        sums: answers under masks.
        grid: when answers leave.
        told: hears of each refusal, in words, which stay on this device.
    """
    app = ClientApp()

    def answer(message: Message, _: Context) -> Message:
        with grid.on_time(message.metadata.message_type):
            said = _attempt(message, lambda: _answer(message.content, plain, sums))
        # Only now: a message carries the time at which it was made.
        return Message(said, reply_to=message)

    def stage(message: Message, _: Context) -> Message:
        return Message(_attempt(message, lambda: _pass_stage(message, sums)), reply_to=message)

    def _attempt(message: Message, answering: Callable[[], RecordDict]) -> RecordDict | Error:
        try:
            return answering()
        except Exception as failure:  # noqa: BLE001 - what is not caught here crosses in words
            code, words = code_of(failure), str(failure)
            if not isinstance(failure, QuestionRefusedError):
                words = f"{type(failure).__name__}: {words}"
            _log.warning("question_refused kind=%s code=%s %s", message.metadata.message_type, code, words)
            told(code, words)
            return Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, write_refusal(code))

    for kind in KINDS:
        category, _, action = kind.partition(".")
        (app.train if category == "train" else app.evaluate)(action)(answer)
    for name in SumStage:
        app.query(name.value.partition(".")[2])(stage)
    return app


def _answer(content: RecordDict, plain: PlainSide | None, sums: SumSide | None) -> RecordDict:
    text, arrays = _read_question(content)
    if "sum" in content.config_records:
        return _sum_record(_required(sums).mask(_sum_message(content), text, arrays))
    if plain is None:
        raise PlainAnswerRefusedError(
            "the aggregator asks for an answer in plain; this device answers under a secure sum only"
            " (learner.plain_answers = true in agent.toml would allow it)"
        )
    question = decode_question(text)
    plain.check(question, arrays)
    with np.errstate(all="ignore"):
        return RecordDict({"answer": ArrayRecord({"vector": Array(plain.answer(question, arrays))})})


def _pass_stage(message: Message, sums: SumSide | None) -> RecordDict:
    side, content = _required(sums), _sum_message(message.content)
    match SumStage(message.metadata.message_type):
        case SumStage.ADVERTISE:
            terms = message.content.config_records["sum"].get("terms")
            if not isinstance(terms, str):
                raise QuestionRefusedError(
                    RefusalCode.NOT_ASKED, "the first stage of a secure sum carries no terms"
                )
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
            RefusalCode.ROSTER,
            "this device takes no part in secure sums: it has no fleet to get the roster from",
        )
    return sums


def _sum_record(message: bytes) -> RecordDict:
    return RecordDict({"sum": ConfigRecord({"message": message})})


def _sum_message(content: RecordDict) -> bytes:
    configs = content.config_records
    message = configs["sum"].get("message") if "sum" in configs else None
    if not isinstance(message, bytes):
        raise QuestionRefusedError(
            RefusalCode.NOT_ASKED, "the message holds no config record 'sum' with the bytes 'message'"
        )
    return message


def _read_question(content: RecordDict) -> tuple[str, dict[str, NDArray[np.float32]]]:
    """The question's text and its arrays; raises QuestionRefusedError for anything else."""
    configs, records = content.config_records, content.array_records
    text = configs["question"].get("json") if "question" in configs else None
    if not isinstance(text, str):
        raise QuestionRefusedError(
            RefusalCode.NOT_ASKED, "the message holds no config record 'question' with the text 'json'"
        )
    arrays = records["arrays"] if "arrays" in records else ArrayRecord()
    if len(arrays) > MAXIMUM_ARRAYS:
        raise QuestionRefusedError(
            RefusalCode.ARRAYS,
            f"the question carries {len(arrays)} arrays; at most {MAXIMUM_ARRAYS} are read",
        )
    try:
        return text, {name: decode_vector(array.data) for name, array in arrays.items()}
    except ProtocolError as error:
        raise QuestionRefusedError(RefusalCode.ARRAYS, f"an array cannot be read: {error}") from None
