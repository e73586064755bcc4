"""The learner as a Flower ClientApp: messages in, messages out.

Nothing here knows the wire, so the same app also runs under a stock SuperNode. A question that is refused becomes a
Flower error reply with the reason in words; the learner goes on.

    train.fit, evaluate.assess:  ConfigRecord "question" + ArrayRecord "arrays"
                              →  ArrayRecord "answer" {"vector"} + MetricRecord "work" {"seconds"}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import QuestionRefusedError
from edge_agent.learner.upstream import (
    Array,
    ArrayRecord,
    ClientApp,
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
from protocol.questions import ASSESS, FIT, Question, decode_question

__all__ = ["Answerer", "client_app"]

Answerer = Callable[[Question, Mapping[str, NDArray[np.float32]]], NDArray[np.float32]]

MAXIMUM_ARRAYS: Final = 8
"""No question carries more than two."""


def client_app(answer: Answerer, *, clock: Callable[[], float]) -> ClientApp:
    """Make the app.

    Args:
        answer: `LocalLearner.answer`, or anything that gives a vector or raises QuestionRefusedError.
        clock: monotonic seconds, to say how long an answer took.
    """
    app = ClientApp()

    def handle(message: Message, _: Context) -> Message:
        started = clock()
        try:
            vector = answer(*_read_question(message.content))
        except (QuestionRefusedError, ProtocolError, ModelError) as refusal:
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(refusal)), reply_to=message)
        content = RecordDict(
            {
                "answer": ArrayRecord({"vector": Array(vector)}),
                "work": MetricRecord({"seconds": clock() - started}),
            }
        )
        return Message(content, reply_to=message)

    app.train(FIT.partition(".")[2])(handle)
    app.evaluate(ASSESS.partition(".")[2])(handle)
    return app


def _read_question(content: RecordDict) -> tuple[Question, dict[str, NDArray[np.float32]]]:
    """The question and its arrays; raises ProtocolError or QuestionRefusedError for anything else."""
    configs, records = content.config_records, content.array_records
    text = configs["question"].get("json") if "question" in configs else None
    if not isinstance(text, str):
        raise QuestionRefusedError("the message holds no config record 'question' with the text 'json'")
    arrays = records["arrays"] if "arrays" in records else ArrayRecord()
    if len(arrays) > MAXIMUM_ARRAYS:
        raise QuestionRefusedError(
            f"the question carries {len(arrays)} arrays; at most {MAXIMUM_ARRAYS} are read"
        )
    return decode_question(text), {name: decode_vector(array.data) for name, array in arrays.items()}
