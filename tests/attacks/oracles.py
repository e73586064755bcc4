"""Windows' ways out that were open once, or that somebody may open again, each as a patch: the recorder must see every one of them.

Each is the least change of the real learner that makes something the aggregator sees depend on what is in a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Final
from unittest.mock import patch

import msgspec
import numpy as np

from edge_agent.errors import QuestionRefusedError
from edge_agent.learner import client_app, local_update
from edge_agent.learner.flower_internals import MetricRecord, RecordDict
from edge_agent.learner.sum_participant import SumParticipant, _RoundAccount
from edge_agent.learner.time_grid import TimeGrid
from models.errors import ParameterError
from models.local_training import fit
from protocol.refusals import RefusalCode
from protocol.secure_sum import messages
from protocol.secure_sum.device_role import DeviceRole
from protocol.secure_sum.messages import MaskedInput, ShareDelivery
from protocol.sum_terms import hash_arrays, hash_question

__all__ = ["ORACLES"]


def _answered(self: SumParticipant, attempt: Any, question: Any, arrays: Any) -> Any:
    with np.errstate(all="ignore"):
        return attempt.encoding.encode(self._learner.answer(question, arrays), self._random_bytes)


@contextmanager
def failures_are_refused() -> Iterator[None]:
    """An answer that is not finite is refused, and no masked zero."""
    with patch.object(SumParticipant, "_words", _answered):
        yield


@contextmanager
def refusals_have_words() -> Iterator[None]:
    """What failed is told in words, which hold numbers of the windows."""
    told: list[str] = []

    def words(self: SumParticipant, attempt: Any, question: Any, arrays: Any) -> Any:
        try:
            return _answered(self, attempt, question, arrays)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the oracle
            told.append(str(error))
            raise QuestionRefusedError(RefusalCode.FAILED, str(error)) from None

    with (
        patch.object(SumParticipant, "_words", words),
        patch.object(client_app, "write_refusal", lambda code: f"refused: {code} {told[-1:]}"),
    ):
        yield


@contextmanager
def delivery_is_checked_after_the_data() -> Iterator[None]:
    """A bad delivery of shares is refused with one code or another, for nothing."""

    def mask(self: SumParticipant, message: bytes, text: str, arrays: Mapping[str, Any]) -> bytes:
        delivery = messages.decode(message, ShareDelivery)
        with self._attempted(delivery.session) as attempt:
            question = client_app.decode_question(text)
            self._learner.check(question, arrays)
            words = _answered(self, attempt, question, arrays)
            attempt.role.accept(
                delivery, model_hash=hash_arrays(arrays), config_hash=hash_question(text, attempt.terms_text)
            )
            return messages.encode(attempt.role.mask(words))

    with patch.object(SumParticipant, "mask", mask):
        yield


@contextmanager
def charges_follow_the_answer() -> Iterator[None]:
    """An answer that came to nothing costs nothing."""
    charge, answered, mask = _RoundAccount.charge, SumParticipant._words, DeviceRole.mask
    failed: list[bool] = []

    def words(self: SumParticipant, attempt: Any, question: Any, arrays: Any) -> Any:
        try:
            _answered(self, attempt, question, arrays)
            failed[:] = []
        except Exception:  # noqa: BLE001 - whatever it is, it is the oracle
            failed[:] = [True]
        return answered(self, attempt, question, arrays)

    def masked(self: DeviceRole, words: Any) -> MaskedInput:
        if not failed:
            charge(self._budget, self._round.announcement)  # type: ignore[arg-type, union-attr]
        return mask(self, words)

    with (
        patch.object(_RoundAccount, "charge", lambda *_: None),
        patch.object(SumParticipant, "_words", words),
        patch.object(DeviceRole, "mask", masked),
    ):
        yield


def _beside(extra: Callable[[Any], float]) -> Any:
    real = client_app._answer

    def answer(content: Any, plain: Any, sums: Any) -> RecordDict:
        started = sums._learner._model._work()
        reply = real(content, plain, sums)
        reply["work"] = MetricRecord({"figure": extra(sums._learner) - started * (extra is _worked)})
        return reply

    return patch.object(client_app, "_answer", answer)


def _worked(learner: Any) -> float:
    return float(learner._model._work())


def _again(*arguments: Any, **options: Any) -> Any:
    """`fit`, once more with half the step where it diverged: so long until it does not."""
    for _ in range(6):
        try:
            return fit(*arguments, **options)
        except ParameterError:
            settings = arguments[3]
            halved = msgspec.structs.replace(settings, learning_rate=settings.learning_rate / 2)
            arguments = (*arguments[:3], halved, *arguments[4:])
    return fit(*arguments, **options)


@contextmanager
def losses_are_in_the_reply() -> Iterator[None]:
    """A loss of this device's windows stands beside the masked answer."""
    with _beside(lambda learner: float(np.square(learner._seen).mean())):
        yield


@contextmanager
def work_is_in_the_reply() -> Iterator[None]:
    """How long the answer took stands in it, and training takes as long as it needs."""
    with ExitStack() as stack:
        stack.enter_context(_beside(_worked))
        stack.enter_context(patch.object(local_update, "fit", _again))
        yield


@contextmanager
def replies_leave_when_they_are_done() -> Iterator[None]:
    """No grid of times, and training takes as long as it needs."""
    with (
        patch.object(TimeGrid, "on_time", lambda *_: nullcontext()),
        patch.object(local_update, "fit", _again),
    ):
        yield


@contextmanager
def failures_are_short() -> Iterator[None]:
    """What failed is a masked input without words: its size tells."""
    mask, failed = DeviceRole.mask, list[bool]()

    def words(self: SumParticipant, attempt: Any, question: Any, arrays: Any) -> Any:
        failed.clear()
        try:
            return _answered(self, attempt, question, arrays)
        except Exception:  # noqa: BLE001 - as above
            failed.append(True)
            return np.zeros(attempt.announcement.word_count, np.uint32)

    def masked(self: DeviceRole, words: Any) -> MaskedInput:
        whole = mask(self, words)
        return msgspec.structs.replace(whole, words=b"") if failed else whole

    with patch.object(SumParticipant, "_words", words), patch.object(DeviceRole, "mask", masked):
        yield


ORACLES: Final = (
    failures_are_refused,
    refusals_have_words,
    delivery_is_checked_after_the_data,
    charges_follow_the_answer,
    losses_are_in_the_reply,
    work_is_in_the_reply,
    replies_leave_when_they_are_done,
    failures_are_short,
)
