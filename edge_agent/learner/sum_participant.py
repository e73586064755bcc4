"""This device's part in secure sums: it answers with words that mean nothing without everybody else's.

::

    advertise ─► share ─► check, charge, train, encode, mask ─► [confirm] ─► unmask      secrets of one attempt, in memory only

Ties together the role of `protocol.secure_sum` (what may be said), the encoding of `protocol.secure_answers` (what the words
mean), the fleet's roster (who the others are) and this device's own privacy account (how often, how much). A new
attempt makes everything anew and wipes what was left of the last one; a learner that is killed forgets its part and the round
goes on without it.

The order is the promise. Until the charge nothing is looked at but messages, the approved release and the account: a refusal says
nothing of this device's data. From the charge on there are no refusals: whatever goes wrong adds zeros to the sum, under the same
masks, in as many words. So what the aggregator sees of an answer never depends on the data it was made of.

Not here: the answer itself (`local_learner`), the road (`participation`, `client_app`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from edge_agent.errors import QuestionRefusedError
from edge_agent.privacy.account import AskedSum, DeviceAccount
from edge_agent.privacy.limits import ChargeLimits
from protocol.errors import ProtocolError
from protocol.identity import IdentityKey
from protocol.names import DeviceId
from protocol.privacy_cost import RoundNoise
from protocol.questions import (
    TRAINING_KINDS,
    AnswerLayout,
    FitQuestion,
    Kind,
    Question,
    decode_question,
    kind_of,
)
from protocol.refusals import RefusalCode
from protocol.secure_answers import AnswerEncoding, make_encoding
from protocol.secure_sum import messages
from protocol.secure_sum.device_role import DevicePolicy, DeviceRole
from protocol.secure_sum.errors import StageOrderError
from protocol.secure_sum.keys import RandomBytes
from protocol.sum_terms import SumTerms, decode_terms, hash_arrays, hash_question

__all__ = ["Answerer", "RosterSource", "SumParticipant"]

_log: Final = logging.getLogger(__name__)

Float = NDArray[np.float32]


class Answerer(Protocol):
    """What is answered: `edge_agent.learner.local_learner.LocalLearner`, which documents each."""

    def layout_of(self, kind: Kind) -> AnswerLayout: ...  # noqa: D102 - see LocalLearner

    def check_terms(self, terms: SumTerms) -> None: ...  # noqa: D102 - see LocalLearner

    def check(self, question: Question, arrays: Mapping[str, Float]) -> None: ...  # noqa: D102 - see LocalLearner

    def answer(self, question: Question, arrays: Mapping[str, Float]) -> Float: ...  # noqa: D102 - see LocalLearner

    def settle(self) -> None: ...  # noqa: D102 - see LocalLearner


class RosterSource(Protocol):
    """Who belongs to this device's family, by the fleet's word (`edge_agent.learner.family_roster`)."""

    def keys(self, expected: frozenset[DeviceId]) -> Mapping[DeviceId, ec.EllipticCurvePublicKey]:
        """Identity keys; asked anew where one of the `expected` devices is not known yet."""
        ...


@dataclass(eq=False)
class _Attempt:
    """One attempt at one round."""

    terms_text: str
    terms: SumTerms
    announcement: messages.Announcement
    encoding: AnswerEncoding
    role: DeviceRole


class SumParticipant:
    """One device's side of secure sums, one attempt at a time.

    Args:
        device: this device's id.
        identity_key: its long-lived key, which signs the round's keys.
        roster: who the others are.
        policy: this device's floors.
        budget: this device's own account.
        learner: what is answered; told when an update of this device is being unmasked, so that it is in the sum.
        random_bytes: the operating system's generator outside of tests.
        now: Unix seconds.
    """

    def __init__(
        self,
        device: DeviceId,
        *,
        identity_key: IdentityKey,
        roster: RosterSource,
        policy: DevicePolicy,
        budget: DeviceAccount,
        learner: Answerer,
        random_bytes: RandomBytes,
        now: Callable[[], float],
    ) -> None:
        self._device, self._key, self._roster, self._policy = device, identity_key, roster, policy
        self._budget, self._learner = budget, learner
        self._random_bytes, self._now = random_bytes, now
        self._attempt: _Attempt | None = None

    def advertise(self, message: bytes, terms_text: str) -> bytes:
        """Stage 1: look at the terms, ask the account, make the attempt's keys; returns an Advertisement.

        Raises:
            FedgeError: a refusal (`edge_agent.learner.refusals`); so does every stage, and the attempt is over.
        """
        self.forget()
        announcement = messages.decode(message, messages.Announcement)
        terms, encoding = self._read_terms(terms_text)
        if (encoding.word_bits, encoding.word_count) != (announcement.word_bits, announcement.word_count):
            raise QuestionRefusedError(
                RefusalCode.TERMS,
                f"the round announces {announcement.word_count} words of {announcement.word_bits} bits; under its terms this device's"
                f" answer has {encoding.word_count} of {encoding.word_bits}: the models or the builds differ",
            )
        role = DeviceRole(
            self._device,
            identity_key=self._key,
            roster=self._roster.keys(frozenset({self._device})),
            policy=self._policy_for(terms),
            budget=_RoundAccount(self._budget, terms, encoding.noise, self._now),
            random_bytes=self._random_bytes,
        )
        advertisement = role.advertise(announcement)
        self._attempt = _Attempt(terms_text, terms, announcement, encoding, role)
        return messages.encode(advertisement)

    def share_keys(self, message: bytes) -> bytes:
        """Stage 2: check the cohort against the fleet's roster and leave shares with the neighbours; returns SealedShares."""
        book = messages.decode(message, messages.CohortBook)
        with self._attempted(book.session) as attempt:
            # A device that enrolled after this learner started is in no roster read before; the fleet is asked once more.
            self._roster.keys(frozenset(map(DeviceId, book.cohort)))
            return messages.encode(attempt.role.share_keys(book))

    def mask(self, message: bytes, question_text: str, arrays: Mapping[str, Float]) -> bytes:
        """Stage 3: check everything, charge this device's account, answer the question, mask; returns a MaskedInput."""
        delivery = messages.decode(message, messages.ShareDelivery)
        with self._attempted(delivery.session) as attempt:
            question = decode_question(question_text)
            _check_announced(question, attempt.terms)
            self._learner.check(question, arrays)
            config_hash, model_hash = hash_question(question_text, attempt.terms_text), hash_arrays(arrays)
            attempt.role.accept(delivery, model_hash=model_hash, config_hash=config_hash)
            # Charged. From here on this device's data are at work, and nothing of them may decide what the aggregator sees.
            words = self._words(attempt, question, arrays)
            return messages.encode(attempt.role.mask(words))

    def confirm(self, message: bytes) -> bytes:
        """Between 3 and 4, in rounds that compare survivors; returns a SurvivorConfirmation."""
        survivors = messages.decode(message, messages.SurvivorList)
        with self._attempted(survivors.session) as attempt:
            return messages.encode(attempt.role.confirm(survivors))

    def unmask(self, message: bytes) -> bytes:
        """Stage 4: reveal shares, then forget the attempt; returns RevealedShares."""
        request = messages.decode(message, messages.UnmaskRequest)
        with self._attempted(request.session) as attempt:
            revealed = attempt.role.unmask(request)
        self._attempt = None
        # Whoever is asked for shares has its masked answer in the sum. Not everybody in it is asked in time, so `participation` settles
        # when the answer is taken; this is for roads that cannot tell.
        if attempt.terms.question in TRAINING_KINDS:
            self._learner.settle()
        return messages.encode(revealed)

    def forget(self) -> None:
        """Wipe the secrets of an attempt that will not be finished."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.role.leave()

    def _read_terms(self, text: str) -> tuple[SumTerms, AnswerEncoding]:
        try:
            terms = decode_terms(text)
            self._learner.check_terms(terms)
            return terms, make_encoding(self._learner.layout_of(terms.question), terms)
        except ProtocolError as error:
            raise QuestionRefusedError(RefusalCode.TERMS, f"the terms cannot be met: {error}") from None

    def _words(
        self, attempt: _Attempt, question: Question, arrays: Mapping[str, Float]
    ) -> NDArray[np.uint32]:
        """The answer as words; zeros, which add nothing to a sum, not even a vote, where there is none for whatever reason."""
        try:
            # What overflows on the way is not finite in the end, or does not matter.
            with np.errstate(all="ignore"):
                answer = self._learner.answer(question, arrays)
                return attempt.encoding.encode(answer, self._random_bytes)
        except Exception as error:  # noqa: BLE001 - a road on which failures travelled would say which data fail
            _log.warning("answer_adds_nothing run=%r %s: %s", question.run_id, type(error).__name__, error)
        zeros = np.zeros(self._learner.layout_of(attempt.terms.question).total, np.float32)
        return attempt.encoding.encode(zeros, self._random_bytes)

    @contextmanager
    def _attempted(self, session: str) -> Iterator[_Attempt]:
        """The attempt of this session; whatever is refused within ends it."""
        attempt = self._of(session)
        try:
            yield attempt
        except BaseException:
            self.forget()
            raise

    def _policy_for(self, terms: SumTerms) -> DevicePolicy:
        """The floors of a round: under noise, as many survivors as the charge was computed for.

        Otherwise a server could have fewer devices' noise unmasked than each of them paid for.
        """
        if terms.noise is None:
            return self._policy
        fewest = terms.devices - terms.noise.maximum_dropouts
        return replace(self._policy, minimum_cohort=max(self._policy.minimum_cohort, fewest))

    def _of(self, session: str) -> _Attempt:
        if self._attempt is None or self._attempt.announcement.session != session:
            raise StageOrderError(
                f"this device has no part in session {session[:16]!r}: it did not advertise in it, or has left it;"
                " start a new attempt"
            )
        return self._attempt


class _RoundAccount:
    """Implements `protocol.secure_sum.budget.Budget` with this device's own account, for one attempt."""

    def __init__(
        self, budget: DeviceAccount, terms: SumTerms, noise: RoundNoise, now: Callable[[], float]
    ) -> None:
        self._budget, self._terms, self._noise, self._now = budget, terms, noise, now
        self._announced = ChargeLimits(
            maximum_participations=terms.maximum_participations,
            maximum_epsilon=terms.maximum_epsilon,
            delta=1e-6 if terms.noise is None else terms.noise.delta,
        )

    def check(self, announcement: messages.Announcement) -> None:
        """See `protocol.secure_sum.budget.Budget`."""
        self._budget.check(self._asked(announcement))

    def check_cohort(self, announcement: messages.Announcement, cohort: frozenset[DeviceId]) -> None:
        """See `protocol.secure_sum.budget.Budget`."""
        self._budget.check_cohort(self._asked(announcement), cohort)

    def charge(self, announcement: messages.Announcement) -> None:
        """See `protocol.secure_sum.budget.Budget`."""
        self._budget.charge(self._asked(announcement), now_s=self._now())

    def reveal(self, announcement: messages.Announcement, survivors: frozenset[DeviceId]) -> None:
        """See `protocol.secure_sum.budget.Budget`."""
        self._budget.reveal(self._asked(announcement), survivors)

    def _asked(self, announcement: messages.Announcement) -> AskedSum:
        return AskedSum(
            kind=self._terms.question,
            run=self._terms.run_id,
            round_number=self._terms.round_number,
            session=announcement.session,
            noise=self._noise,
            announced=self._announced,
        )


def _check_announced(question: Question, terms: SumTerms) -> None:
    kind = kind_of(question)
    number = question.round_number if isinstance(question, FitQuestion) else terms.round_number
    if (kind, question.run_id, number) != (terms.question, terms.run_id, terms.round_number):
        raise QuestionRefusedError(
            RefusalCode.TERMS,
            f"the terms were for {terms.question} {terms.round_number} of run {terms.run_id!r}, the question is {kind} {number}"
            f" of run {question.run_id!r}",
        )
