"""The collector that sees only a sum: four stages with the devices, masks that cancel, nothing of any single device.

::

    announce, terms ─► ADVERTISE ─► SHARE ─► question, arrays ─► MASK (the devices train here) ─► UNMASK ─► Σ
       │ ledger: opened      too few at any stage: void, no sum, nothing spent │              │ ledger: used

Stands where `PlainCollector` stands. `Admission` cannot look at an answer here: each device clips its own, by the bounds of the terms
that every device has signed for, and the encoding cannot hold more. What the server can still check it checks: stage by
stage the shape, size and place of each message, and that the sum is over at least `quorum` devices.

Invariants:
    * Every attempt has a fresh session; a round that fails is never continued, its secrets are useless afterwards.
    * `total` is over exactly `participants`; below the quorum nothing is unmasked, the round is void.
    * The round is in the privacy ledger before the first device is asked, its end before the sum is handed on.

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

from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.ledger_entries import FixedCohort, Outcome, RoundId
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.noise_floor import drop_noise_floor
from aggregator.rounds.reports import (
    CohortReport,
    CohortSum,
    CohortTally,
    QuorumMissedError,
    RoundCanceledError,
)
from aggregator.rounds.stage_link import StageLink, StageRequest
from aggregator.rounds.stage_passer import StagePasser
from aggregator.rounds.sum_policy import SumPolicy
from protocol.errors import ProtocolError
from protocol.names import DeviceId, FamilyName, RunId
from protocol.questions import AnswerLayout, FitQuestion, Kind, encode_question, kind_of
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
        accounts: whose ledger holds a round before any device is asked, and its end before the sum is handed on.
        family: whose rounds these are.
        random_bytes: names sessions; the operating system's generator outside of tests.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        link: StageLink,
        *,
        roster: Keys,
        policy: SumPolicy,
        accounts: PrivacyAccounts,
        family: FamilyName,
        random_bytes: RandomBytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link, self._roster, self._policy = link, roster, policy
        self._accounts, self._family = accounts, family
        self._random_bytes, self._clock = random_bytes, clock

    def collect(
        self,
        asked: CohortQuestion,
        cohort: Cohort,
        *,
        deadline_s: float,
        canceled: Callable[[], bool] = lambda: False,
    ) -> CohortSum:
        """See `Collector.collect`; `deadline_s` is the masked inputs', the other stages have the policy's.

        Nobody can look at a single answer here, so the question's admission rule is not asked: devices clip.

        Raises:
            PrivacyPlanError: the quorum is too small for an adaptive clip beside that noise; no device was asked.
            PrivacyBudgetError: using the sum would exceed the family's budget; no device was asked.
            LedgerError: the ledger cannot be written; the sum, if there is one, is not handed on.
        """
        started = self._clock()
        policy, nodes = self._policy_of_now(), cohort.devices
        attempt = self._announce(asked, cohort, deadline_s, policy)
        round_id = self._accounts.next_attempt(
            self._family, RunId(asked.question.run_id), attempt.kind, attempt.announcement.round_number
        )
        self._accounts.open_round(
            round_id,
            self._family,
            noise=attempt.encoding.noise,
            sampling=cohort.sampling or FixedCohort(size=len(nodes), population=len(nodes)),
            cohort=nodes,
        )
        tally = CohortTally(nodes)
        passer = StagePasser(
            self._link, tally, clock=self._clock, grace_s=self._policy.stages.grace_s, canceled=canceled
        )
        role = ServerRole(
            attempt.announcement,
            roster={device: self._roster[device] for device in nodes},
            policy=self._policy.stages.server_policy(cohort.quorum),
        )
        settled: list[DeviceId] = []
        try:
            found = self._pass_stages(role, passer, attempt, settled)
            total = self._decode(attempt.encoding, found, asked.layout)
            clip_bits = _clip_bits(attempt.encoding, found)
        except (ProtocolError, RoundCanceledError) as failure:
            self._close_in_vain(round_id, settled, str(failure))
            report = tally.report((), self._clock() - started)
            if isinstance(failure, RoundCanceledError):
                raise RoundCanceledError(str(failure), report) from None
            raise QuorumMissedError(_void_words(failure, report, len(nodes)), report) from failure
        except BaseException as failure:
            self._close_in_vain(round_id, settled, type(failure).__name__)
            raise
        self._accounts.close_round(
            round_id,
            Outcome.USED,
            participants=found.participants,
            clip_bits=clip_bits,
            next_clip=_next_clip(policy, clip_bits, len(found.participants)),
        )
        for liar in found.liars:
            _log.warning("false_share_revealed", device=liar, round=str(round_id))
        report = tally.report(found.participants, self._clock() - started)
        return CohortSum(**vars(report), total=total)

    def _policy_of_now(self) -> SumPolicy:
        """The family's, with its clip where the ledger says that earlier rounds have taken it."""
        noise = self._policy.privacy.noise
        if noise is None or noise.adaptive is None:
            return self._policy
        return self._policy.at(self._accounts.current_clip(self._family, noise.adaptive))

    def _announce(
        self, asked: CohortQuestion, cohort: Cohort, deadline_s: float, policy: SumPolicy
    ) -> _Round:
        question, layout = asked.question, asked.layout
        kind = kind_of(question)
        number = question.round_number if isinstance(question, FitQuestion) else 1
        terms = policy.terms(
            run_id=question.run_id,
            kind=kind,
            number=number,
            layout=layout,
            devices=len(cohort.devices),
            quorum=cohort.quorum,
            rotation_seed=self._random_bytes(16).hex(),
        )
        question_text, terms_text = encode_question(question), encode_terms(terms)
        encoding = make_encoding(layout, terms)
        announcement = messages.Announcement(
            session=self._random_bytes(16).hex(),
            round_number=number,
            model_hash=hash_arrays(asked.arrays),
            config_hash=hash_question(question_text, terms_text),
            word_bits=encoding.word_bits,
            word_count=encoding.word_count,
            requires_confirmation=self._policy.stages.requires_confirmation,
        )
        return _Round(
            kind=kind,
            question=question_text,
            terms=terms_text,
            arrays=asked.arrays,
            encoding=encoding,
            announcement=announcement,
            deadline_s=deadline_s,
            enough=cohort.target,
        )

    def _pass_stages(
        self, role: ServerRole, passer: StagePasser, attempt: _Round, settled: list[DeviceId]
    ) -> SecureSum:
        """Take the role from stage to stage; `settled` gets the survivors as soon as anybody is asked to unmask."""
        stage_s, enough = self._policy.stages.stage_deadline_s, attempt.enough
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
        if attempt.announcement.requires_confirmation:
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
        self._accounts.close_round(round_id, outcome, participants=settled, reason=reason[:500])


def _clip_bits(encoding: AnswerEncoding, found: SecureSum) -> float | None:
    if isinstance(encoding, NoisedEncoding):
        return encoding.clip_bits(found.words, len(found.participants))
    return None


def _next_clip(policy: SumPolicy, clip_bits: float | None, participants: int) -> float | None:
    if clip_bits is None or policy.privacy.noise is None or policy.privacy.noise.adaptive is None:
        return None
    return policy.privacy.noise.adaptive.next_clip(clip_bits, participants)


def _request(kind: str, outgoing: Mapping[DeviceId, messages.Message]) -> StageRequest:
    return StageRequest(kind=kind, messages=_encoded(outgoing))


def _encoded(outgoing: Mapping[DeviceId, messages.Message]) -> dict[DeviceId, bytes]:
    return {device: messages.encode(message) for device, message in outgoing.items()}


def _void_words(failure: Exception, report: CohortReport, asked: int) -> str:
    name = type(failure).__name__ if isinstance(failure, SecureSumError) else "ProtocolError"
    refusals = "; ".join(f"{refusal.device}: {refusal.reason}" for refusal in report.refused[:3])
    return (
        f"the secure sum of {asked} devices came to nothing, nothing of it was used ({name}: {failure};"
        f" {len(report.refused)} refused, {len(report.lost)} lost)" + (f"; {refusals}" if refusals else "")
    )
