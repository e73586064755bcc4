"""This device's part in secure sums: it answers with words that mean nothing without everybody else's.

::

    advertise ─► share ─► check, charge, train, encode, mask ─► [confirm] ─► unmask      secrets of one attempt, in memory only

Ties together the role of `protocol.secure_sum` (what may be said), the encoding of `protocol.secure_answers` (what the words
mean), the fleet's roster (who the others are) and this device's own privacy account (how often, how much). A new
attempt makes everything anew and wipes what was left of the last one; a learner that is killed forgets its part and the round
goes on without it.

Not here: the answer itself (`local_learner`), the road (`participation`, `client_app`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from edge_agent.errors import QuestionRefusedError, TrainingDivergedError
from edge_agent.privacy.account import AskedSum, DeviceAccount
from edge_agent.privacy.limits import ChargeLimits
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
from protocol.secure_answers import AnswerEncoding, make_encoding
from protocol.secure_sum import messages
from protocol.secure_sum.device_role import DevicePolicy, DeviceRole
from protocol.secure_sum.errors import StageOrderError
from protocol.secure_sum.keys import RandomBytes
from protocol.sum_terms import SumTerms, decode_terms, hash_arrays, hash_question

__all__ = ["RosterSource", "SumParticipant"]

_log: Final = logging.getLogger(__name__)

Answerer = Callable[[Question, Mapping[str, NDArray[np.float32]]], NDArray[np.float32]]


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
        layout_of: the answer's layout for each kind of question, `LocalLearner.layout_of`.
        answer: `LocalLearner.answer`.
        settle: told when an update of this device is being unmasked, so that it is in the sum: `LocalLearner.settle`.
        random_bytes: the operating system's generator outside of tests.
        now: Unix seconds.
    """

    def __init__(
        self,
        device: DeviceId,
        *,
        identity_key: ec.EllipticCurvePrivateKey,
        roster: RosterSource,
        policy: DevicePolicy,
        budget: DeviceAccount,
        layout_of: Callable[[Kind], AnswerLayout],
        answer: Answerer,
        settle: Callable[[], None] = lambda: None,
        random_bytes: RandomBytes,
        now: Callable[[], float],
    ) -> None:
        self._device, self._key, self._roster, self._policy = device, identity_key, roster, policy
        self._budget, self._layout_of, self._answer, self._settle = budget, layout_of, answer, settle
        self._random_bytes, self._now = random_bytes, now
        self._attempt: _Attempt | None = None

    def advertise(self, message: bytes, terms_text: str) -> bytes:
        """Stage 1: look at the terms, ask the account, make the attempt's keys; returns an Advertisement.

        Raises:
            ProtocolError: a refusal, by name and in words.
        """
        self.forget()
        announcement = messages.decode(message, messages.Announcement)
        terms = decode_terms(terms_text)
        encoding = make_encoding(self._layout_of(terms.question), terms)
        if (encoding.word_bits, encoding.word_count) != (announcement.word_bits, announcement.word_count):
            raise QuestionRefusedError(
                f"the round announces {announcement.word_count} words of {announcement.word_bits} bits; under its terms this device's"
                f" answer has {encoding.word_count} of {encoding.word_bits}: the models or the builds differ"
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
        attempt = self._of(book.session)
        # A device that enrolled after this learner started is in no roster read before; the fleet is asked once more.
        self._roster.keys(frozenset(map(DeviceId, book.cohort)))
        return messages.encode(attempt.role.share_keys(book))

    def mask(self, message: bytes, question_text: str, arrays: Mapping[str, NDArray[np.float32]]) -> bytes:
        """Stage 3: answer the question, charge this device's account, mask; returns a MaskedInput."""
        delivery = messages.decode(message, messages.ShareDelivery)
        attempt = self._of(delivery.session)
        question = decode_question(question_text)
        _check_question(question, attempt.terms)
        config_hash, model_hash = hash_question(question_text, attempt.terms_text), hash_arrays(arrays)
        # Checked and charged before this device's data are touched: no refusal depends on them, and none of them is given for free.
        attempt.role.accept(delivery, model_hash=model_hash, config_hash=config_hash)
        try:
            answer = self._answer(question, arrays)
        except TrainingDivergedError as diverged:
            # Whoever leaves here may cost the whole cohort its round; zeros add nothing to a sum, not even an example.
            _log.warning("training_diverged_adds_nothing run=%s reason=%s", question.run_id, diverged)
            answer = np.zeros(self._layout_of(attempt.terms.question).total, np.float32)
        words = attempt.encoding.encode(answer, self._random_bytes)
        return messages.encode(attempt.role.mask(words))

    def confirm(self, message: bytes) -> bytes:
        """Between 3 and 4, in rounds that compare survivors; returns a SurvivorConfirmation."""
        survivors = messages.decode(message, messages.SurvivorList)
        return messages.encode(self._of(survivors.session).role.confirm(survivors))

    def unmask(self, message: bytes) -> bytes:
        """Stage 4: reveal shares, then forget the attempt; returns RevealedShares."""
        request = messages.decode(message, messages.UnmaskRequest)
        attempt = self._of(request.session)
        revealed = attempt.role.unmask(request)
        self._attempt = None
        # Whoever is asked for shares has its masked answer in the sum. Not everybody in it is asked in time, so `participation` settles
        # when the answer is taken; this is for roads that cannot tell.
        if attempt.terms.question in TRAINING_KINDS:
            self._settle()
        return messages.encode(revealed)

    def forget(self) -> None:
        """Wipe the secrets of an attempt that will not be finished."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.role.leave()

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


def _check_question(question: Question, terms: SumTerms) -> None:
    kind = kind_of(question)
    number = question.round_number if isinstance(question, FitQuestion) else terms.round_number
    if (kind, question.run_id, number) != (terms.question, terms.run_id, terms.round_number):
        raise QuestionRefusedError(
            f"the terms were for {terms.question} {terms.round_number} of run {terms.run_id!r}, the question is {kind} {number}"
            f" of run {question.run_id!r}"
        )
