"""The collector that sees only a sum: four stages with the devices, masks that cancel, nothing of any single device.

::

    announce, terms ─► ADVERTISE ─► SHARE ─► question, arrays ─► MASK (the devices train here) ─► UNMASK ─► Σ
       │ ledger: opened      too few at any stage: void, no sum, nothing spent │              │ ledger: released

Stands where `PlainCollector` stands. `Admission` cannot look at an answer here: each device clips its own, by the bounds of the terms
that every device has signed for, and the encoding cannot hold more. What the server can still check it checks: stage by
stage the shape, size and place of each message, and that the sum is over at least `quorum` devices.

Invariants:
    * Every attempt has a fresh session; a round that fails is never continued, its secrets are useless afterwards.
    * `total` is over exactly `participants`; below the quorum nothing is unmasked, the round is void.
    * The round is in the privacy ledger before the first device is asked, its release before the sum is handed on.

The aggregator also reads the devices' keys from the fleet, but only to refuse strangers early: what protects a device is
that it checks its neighbours' signatures against the roster it got from the fleet itself.

Source: Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020; see `protocol.secure_sum`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

from aggregator.errors import QuorumMissedError, RoundCancelledError
from aggregator.privacy.ledger_entries import FixedCohort, Outcome, RoundId, Sampling
from aggregator.rounds.admission import Admission
from aggregator.rounds.cohort_link import CohortReport, CohortSum
from aggregator.rounds.noise_floor import drop_noise_floor
from aggregator.rounds.stage_link import StageLink, StageRequest
from aggregator.rounds.stage_tally import StagePasser, StageTally
from aggregator.rounds.sum_account import SumAccount
from aggregator.rounds.sum_policy import SumPolicy
from protocol.errors import ProtocolError
from protocol.names import DeviceId
from protocol.questions import AnswerLayout, FitQuestion, Kind, Question, encode_question, kind_of
from protocol.secure_answers import AnswerEncoding, NoisedEncoding, make_encoding
from protocol.secure_sum import messages
from protocol.secure_sum.errors import SecureSumError
from protocol.secure_sum.keys import RandomBytes
from protocol.secure_sum.server_role import SecureSum, ServerRole
from protocol.sum_terms import SumStage, encode_terms, hash_arrays, hash_question

__all__ = ["SecureCollector"]

_log = structlog.get_logger()

Keys = Mapping[DeviceId, ec.EllipticCurvePublicKey]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Round:
    """Everything about one attempt that does not change while it lasts."""

    kind: Kind
    question: str
    terms: str
    arrays: Mapping[str, NDArray[np.float32]]
    encoding: AnswerEncoding
    announcement: messages.Announcement
    deadline_s: float
    enough: int


class SecureCollector:
    """Gathers sums of masked answers.

    Args:
        link: the road to the devices.
        roster: identity keys of the devices that may take part.
        policy: words, clips, noise and patience of the family.
        account: where the run's rounds are written down.
        random_bytes: names sessions; the operating system's generator outside of tests.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        link: StageLink,
        *,
        roster: Keys,
        policy: SumPolicy,
        account: SumAccount,
        random_bytes: RandomBytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link, self._roster, self._policy = link, roster, policy
        self._account, self._random_bytes, self._clock = account, random_bytes, clock

    def collect(
        self,
        question: Question,
        arrays: Mapping[str, NDArray[np.float32]],
        layout: AnswerLayout,
        nodes: Sequence[DeviceId],
        *,
        admission: Admission,  # noqa: ARG002 - nobody can look at a single answer here; devices clip
        deadline_s: float,
        quorum: int,
        enough: int | None = None,
        sampling: Sampling | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> CohortSum:
        """See `Collector.collect`; `deadline_s` is the masked inputs', the other stages have the policy's.

        Raises:
            PrivacyPlanError: the quorum is too small for an adaptive clip beside that noise; no device was asked.
            PrivacyBudgetError: releasing the sum would exceed the family's budget; no device was asked.
            LedgerError: the ledger cannot be written; the sum, if there is one, is not handed on.
        """
        started = self._clock()
        target = len(nodes) if enough is None else min(enough, len(nodes))
        policy = self._policy_of_now()
        attempt = self._announce(question, arrays, layout, nodes, quorum, deadline_s, target, policy)
        round_id = self._account.open(
            attempt.kind,
            max(attempt.announcement.round_number, 1),
            attempt.encoding.noise,
            sampling or FixedCohort(size=len(nodes), population=len(nodes)),
            nodes,
        )
        tally = StageTally(nodes)
        passer = StagePasser(
            self._link, tally, clock=self._clock, grace_s=self._policy.grace_s, cancelled=cancelled
        )
        role = ServerRole(
            attempt.announcement,
            roster={device: self._roster[device] for device in nodes},
            policy=self._policy.server_policy(quorum),
        )
        settled: list[DeviceId] = []
        try:
            found = self._pass_stages(role, passer, attempt, settled)
            total = self._decode(attempt.encoding, found, layout)
            clip_bits = _clip_bits(attempt.encoding, found)
        except (ProtocolError, RoundCancelledError) as failure:
            self._close_in_vain(round_id, settled, str(failure))
            report = tally.report((), self._clock() - started)
            if isinstance(failure, RoundCancelledError):
                raise RoundCancelledError(str(failure), report) from None
            raise QuorumMissedError(_void_words(failure, report, len(nodes)), report) from failure
        except BaseException as failure:
            self._close_in_vain(round_id, settled, type(failure).__name__)
            raise
        self._account.close(
            round_id,
            Outcome.RELEASED,
            found.participants,
            clip_bits=clip_bits,
            next_clip=_next_clip(policy, clip_bits, len(found.participants)),
        )
        for liar in found.liars:
            _log.warning("false_share_revealed", device=liar, round=str(round_id))
        report = tally.report(found.participants, self._clock() - started)
        return CohortSum(
            participants=report.participants,
            refused=report.refused,
            lost=report.lost,
            spared=report.spared,
            seconds=report.seconds,
            seconds_in_training=report.seconds_in_training,
            total=total,
        )

    def _policy_of_now(self) -> SumPolicy:
        """The family's, with its clip where the ledger says that earlier rounds have taken it."""
        noise = self._policy.noise
        if noise is None or noise.adaptive is None:
            return self._policy
        return self._policy.at(self._account.current_clip(noise.adaptive))

    def _announce(
        self,
        question: Question,
        arrays: Mapping[str, NDArray[np.float32]],
        layout: AnswerLayout,
        nodes: Sequence[DeviceId],
        quorum: int,
        deadline_s: float,
        enough: int,
        policy: SumPolicy,
    ) -> _Round:
        kind = kind_of(question)
        number = question.round_number if isinstance(question, FitQuestion) else 1
        terms = policy.terms(
            run_id=question.run_id,
            kind=kind,
            number=number,
            layout=layout,
            devices=len(nodes),
            quorum=quorum,
            rotation_seed=self._random_bytes(16).hex(),
        )
        question_text, terms_text = encode_question(question), encode_terms(terms)
        encoding = make_encoding(layout, terms)
        announcement = messages.Announcement(
            session=self._random_bytes(16).hex(),
            round_number=number,
            model_hash=hash_arrays(arrays),
            config_hash=hash_question(question_text, terms_text),
            word_bits=encoding.word_bits,
            word_count=encoding.word_count,
            compares_survivors=self._policy.compares_survivors,
        )
        return _Round(
            kind=kind,
            question=question_text,
            terms=terms_text,
            arrays=arrays,
            encoding=encoding,
            announcement=announcement,
            deadline_s=deadline_s,
            enough=enough,
        )

    def _pass_stages(
        self, role: ServerRole, passer: StagePasser, attempt: _Round, settled: list[DeviceId]
    ) -> SecureSum:
        """Take the role from stage to stage; `settled` gets the survivors as soon as anybody is asked to unmask."""
        stage_s, enough = self._policy.stage_deadline_s, attempt.enough
        hello = messages.encode(attempt.announcement)
        passer.run(
            StageRequest(
                kind=SumStage.ADVERTISE.value,
                messages=dict.fromkeys(role.expected, hello),
                terms=attempt.terms,
            ),
            lambda device, content: role.accept_advertisement(
                device, messages.decode(content, messages.Advertisement)
            ),
            deadline_s=stage_s,
            is_enough=lambda count: count >= enough,
        )
        passer.run(
            _request(SumStage.SHARE.value, role.close_advertising()),
            lambda device, content: role.accept_shares(
                device, messages.decode(content, messages.SealedShares)
            ),
            deadline_s=stage_s,
            is_enough=lambda count: count >= enough,
        )
        survivors: list[DeviceId] = []

        def take_masked(device: DeviceId, content: bytes) -> None:
            role.accept_masked_input(device, messages.decode(content, messages.MaskedInput))
            survivors.append(device)

        passer.run(
            StageRequest(
                kind=attempt.kind,
                messages=_encoded(role.close_sharing()),
                question=attempt.question,
                arrays=attempt.arrays,
            ),
            take_masked,
            deadline_s=attempt.deadline_s,
            is_enough=lambda count: count >= enough,
            grace_s=0.0,
        )
        requests = role.close_masking()
        if attempt.announcement.compares_survivors:
            passer.run(
                _request(SumStage.CONFIRM.value, requests),
                lambda device, content: role.accept_confirmation(
                    device, messages.decode(content, messages.SurvivorConfirmation)
                ),
                deadline_s=stage_s,
                is_enough=lambda _: False,
            )
            requests = role.close_confirming()
        settled.extend(sorted(survivors))
        passer.run(
            _request(SumStage.UNMASK.value, requests),
            lambda device, content: role.accept_revealed(
                device, messages.decode(content, messages.RevealedShares)
            ),
            deadline_s=stage_s,
            is_enough=lambda _: role.can_finish,
            grace_s=0.0,
        )
        return role.finish()

    def _decode(
        self, encoding: AnswerEncoding, found: SecureSum, layout: AnswerLayout
    ) -> NDArray[np.float64]:
        total = encoding.decode(found.words, len(found.participants))
        if isinstance(encoding, NoisedEncoding):
            return drop_noise_floor(total, layout, encoding)
        return total

    def _close_in_vain(self, round_id: RoundId, settled: Sequence[DeviceId], reason: str) -> None:
        # Once devices were asked to unmask, the sum may have been seen: it counts although it is thrown away.
        outcome = Outcome.WITHHELD if settled else Outcome.VOID
        self._account.close(round_id, outcome, tuple(settled), reason[:500])


def _clip_bits(encoding: AnswerEncoding, found: SecureSum) -> float | None:
    if isinstance(encoding, NoisedEncoding):
        return encoding.clip_bits(found.words, len(found.participants))
    return None


def _next_clip(policy: SumPolicy, clip_bits: float | None, participants: int) -> float | None:
    if clip_bits is None or policy.noise is None or policy.noise.adaptive is None:
        return None
    return policy.noise.adaptive.next_clip(clip_bits, participants)


def _request(kind: str, outgoing: Mapping[DeviceId, messages.Message]) -> StageRequest:
    return StageRequest(kind=kind, messages=_encoded(outgoing))


def _encoded(outgoing: Mapping[DeviceId, messages.Message]) -> dict[DeviceId, bytes]:
    return {device: messages.encode(message) for device, message in outgoing.items()}


def _void_words(failure: Exception, report: CohortReport, asked: int) -> str:
    name = type(failure).__name__ if isinstance(failure, SecureSumError) else "ProtocolError"
    refusals = "; ".join(f"{refusal.device}: {refusal.reason}" for refusal in report.refused[:3])
    return (
        f"the secure sum of {asked} devices came to nothing, nothing was released ({name}: {failure};"
        f" {len(report.refused)} refused, {len(report.lost)} lost)" + (f"; {refusals}" if refusals else "")
    )
