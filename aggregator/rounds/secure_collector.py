"""The collector that sees only a sum: four stages with the devices, masks that cancel, nothing of any single device.

::

    announce, terms ─► ADVERTISE ─► SHARE ─► question, arrays ─► MASK (the devices train here) ─► UNMASK ─► Σ
       │ ledger: opened      too few at any stage: void, no sum, nothing spent │              │ ledger: used

Stands where `PlainCollector` stands. `Admission` cannot look at an answer here: each device clips its own, by the bounds of the terms
that every device has signed for. A device that lies may put any words in, and then the sum modulo 2^b is any words: `Admission` looks
at the sum. A cohort may be asked in groups, which pass each stage together and fail each by itself.

Invariants:
    * Every attempt of every group has a fresh session; one that fails is never continued, its secrets are useless afterwards.
    * A sum is over exactly `participants`; below a group's quorum nothing of it is unmasked.
    * Fewer than `cohort.fewest_groups` sums, or `cohort.quorum` devices in them: the round is void, and no sum of it is used.
    * Each group is in the privacy ledger before the first device is asked, its end before any sum is handed on.

The aggregator also reads the devices' keys from the fleet, but only to refuse strangers early: what protects a device is
that it checks its neighbours' signatures against the roster it got from the fleet itself.

Source: Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020; see `protocol.secure_sum`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import structs

from aggregator.errors import RoundError
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.ledger_entries import FixedCohort, Outcome
from aggregator.rounds.cohorts import Cohort
from aggregator.rounds.collector import CohortQuestion
from aggregator.rounds.combining import combine
from aggregator.rounds.group_attempt import GroupAttempt
from aggregator.rounds.group_stages import GroupStages
from aggregator.rounds.reports import (
    CohortReport,
    CohortSum,
    CohortTally,
    QuorumMissedError,
    RoundCanceledError,
)
from aggregator.rounds.runs import GroupRecord
from aggregator.rounds.stage_link import StageLink
from aggregator.rounds.stage_passer import StagePasser
from aggregator.rounds.sum_policy import SumPolicy
from protocol.names import DeviceId, FamilyName, RunId
from protocol.questions import FitQuestion, Kind, encode_question, kind_of
from protocol.secure_answers import make_encoding
from protocol.secure_sum import messages
from protocol.secure_sum.keys import RandomBytes
from protocol.secure_sum.server_role import ServerRole
from protocol.sum_terms import SumStage, encode_terms, hash_arrays, hash_question

__all__ = ["SecureCollector"]

_log = structlog.get_logger()

Keys = Mapping[DeviceId, ec.EllipticCurvePublicKey]
Groups = Sequence[GroupAttempt]


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

        Raises:
            PrivacyPlanError: the quorum is too small for an adaptive clip beside that noise; no device was asked.
            PrivacyBudgetError: using the sum would exceed the family's budget; no device was asked.
            LedgerError: the ledger cannot be written; the sum, if there is one, is not handed on.
        """
        started = self._clock()
        policy = self._policy_of_now()
        groups = self._announce(asked, cohort, policy)
        tally = CohortTally(cohort.devices)
        passer = StagePasser(
            self._link, tally, clock=self._clock, grace_s=self._policy.stages.grace_s, canceled=canceled
        )
        opened: list[GroupAttempt] = []
        try:
            for group in groups:
                self._open(group, cohort)
                opened.append(group)
            self._pass_stages(groups, kind_of(asked.question), passer, deadline_s)
            for group in groups:
                group.finish()
            _require_enough(groups, cohort)
        except BaseException as failure:
            for group in opened:
                self._close_in_vain(group, str(failure) or type(failure).__name__)
            if isinstance(failure, _TooFewSumsError | RoundCanceledError):
                report = tally.report((), self._clock() - started, groups=_records(groups, cohort))
                if isinstance(failure, RoundCanceledError):
                    raise RoundCanceledError(str(failure), report) from None
                raise QuorumMissedError(_void_words(groups, report, cohort), report) from failure.__cause__
            raise
        for group in groups:
            self._close(group, policy)
        sums = tuple(group.result for group in groups if group.result is not None)
        inside = sorted(device for group in sums for device in group.participants)
        report = tally.report(inside, self._clock() - started, groups=_records(groups, cohort))
        total = combine(kind_of(asked.question), asked.layout, sums)
        return CohortSum(**vars(report), total=total, sums=sums)

    def _policy_of_now(self) -> SumPolicy:
        """The family's, with its clip where the ledger says that earlier rounds have taken it."""
        noise = self._policy.privacy.noise
        if noise is None or noise.adaptive is None:
            return self._policy
        return self._policy.at(self._accounts.current_clip(self._family, noise.adaptive))

    def _announce(self, asked: CohortQuestion, cohort: Cohort, policy: SumPolicy) -> list[GroupAttempt]:
        """A session of its own for each group; the terms are the same for all."""
        question, parts = asked.question, cohort.parts
        kind = kind_of(question)
        number = question.round_number if isinstance(question, FitQuestion) else 1
        terms = policy.terms(
            run_id=question.run_id,
            kind=kind,
            number=number,
            layout=asked.layout,
            devices=cohort.largest,
            quorum=min(group.quorum for group in parts),
            rotation_seed=self._random_bytes(16).hex(),
        )
        terms_text, encoding = encode_terms(terms), make_encoding(asked.layout, terms)
        first = self._accounts.next_attempt(self._family, RunId(question.run_id), kind, number)
        attempts = []
        for index, group in enumerate(parts):
            said, arrays = asked.variants[index] if asked.variants else (question, asked.arrays)
            question_text = encode_question(said)
            announcement = messages.Announcement(
                session=self._random_bytes(16).hex(),
                round_number=number,
                model_hash=hash_arrays(arrays),
                config_hash=hash_question(question_text, terms_text),
                word_bits=encoding.word_bits,
                word_count=encoding.word_count,
                requires_confirmation=self._policy.stages.requires_confirmation,
            )
            role = ServerRole(
                announcement,
                roster={device: self._roster[device] for device in group.devices},
                policy=self._policy.stages.server_policy(group.quorum),
            )
            attempts.append(
                GroupAttempt(
                    group=group,
                    kind=kind,
                    question=question_text,
                    terms=terms_text,
                    arrays=arrays,
                    layout=asked.layout,
                    encoding=encoding,
                    announcement=announcement,
                    role=role,
                    round_id=structs.replace(first, group=index + 1 if len(parts) > 1 else 0),
                    random_bytes=self._random_bytes,
                    taken_as=cohort.taken_as,
                )
            )
        return attempts

    def _pass_stages(self, groups: Groups, kind: Kind, passer: StagePasser, deadline_s: float) -> None:
        """Take all groups from stage to stage together; who fails at one is not in the next."""
        stage_s = self._policy.stages.stage_deadline_s
        stages = GroupStages(groups, passer)
        stages.announce(deadline_s=stage_s)
        stages.close(ServerRole.close_advertising)
        stages.run(SumStage.SHARE, messages.SealedShares, ServerRole.accept_shares, deadline_s=stage_s)
        stages.close(ServerRole.close_sharing)
        stages.ask(kind, deadline_s=deadline_s)
        stages.close(ServerRole.close_masking)
        if self._policy.stages.requires_confirmation:
            stages.run(
                SumStage.CONFIRM,
                messages.SurvivorConfirmation,
                ServerRole.accept_confirmation,
                deadline_s=stage_s,
                is_settled=lambda _: False,
            )
            stages.close(ServerRole.close_confirming)
        for group in groups:
            # From here on a sum may be seen.
            group.survivors = tuple(sorted(group.masked)) if group.is_alive else ()
        stages.run(
            SumStage.UNMASK,
            messages.RevealedShares,
            ServerRole.accept_revealed,
            deadline_s=stage_s,
            is_settled=lambda _: all(group.role.can_finish for group in groups if group.is_alive),
            grace_s=0.0,
        )

    def _open(self, group: GroupAttempt, cohort: Cohort) -> None:
        size = len(cohort.devices)
        self._accounts.open_round(
            group.round_id,
            self._family,
            noise=group.encoding.noise,
            sampling=cohort.sampling or FixedCohort(size=size, population=size),
            cohort=group.group.devices,
        )

    def _close(self, group: GroupAttempt, policy: SumPolicy) -> None:
        """Say in the ledger how a group of a round ended that is not void."""
        if group.result is None:
            self._close_in_vain(group, str(group.failure))
            return
        inside = group.result.participants
        self._accounts.close_round(
            group.round_id,
            Outcome.USED,
            participants=inside,
            clip_bits=group.clip_bits,
            next_clip=_next_clip(policy, group.clip_bits, group.taken_as or len(inside)),
        )
        for liar in group.found.liars if group.found else ():
            _log.warning("false_share_revealed", device=liar, round=str(group.round_id))

    def _close_in_vain(self, group: GroupAttempt, reason: str) -> None:
        # Once devices were asked to unmask, the sum may have been seen: it counts although it is thrown away.
        outcome = Outcome.WITHHELD if group.survivors else Outcome.VOID
        reason = str(group.failure or reason)[:500]
        self._accounts.close_round(group.round_id, outcome, participants=group.survivors, reason=reason)


def _next_clip(policy: SumPolicy, clip_bits: float | None, participants: int) -> float | None:
    if clip_bits is None or policy.privacy.noise is None or policy.privacy.noise.adaptive is None:
        return None
    return policy.privacy.noise.adaptive.next_clip(clip_bits, participants)


def _records(groups: Groups, cohort: Cohort) -> tuple[GroupRecord, ...]:
    return tuple(group.record for group in groups) if cohort.groups else ()


class _TooFewSumsError(RoundError):
    """The round is void; the collector says why once everybody's fate is known."""


def _require_enough(groups: Groups, cohort: Cohort) -> None:
    sums = [group.result for group in groups if group.result is not None]
    devices = sum(len(found.participants) for found in sums)
    if len(sums) < cohort.fewest_groups or devices < cohort.quorum:
        raise _TooFewSumsError from next((group.failure for group in groups if group.failure), None)


def _void_words(groups: Groups, report: CohortReport, cohort: Cohort) -> str:
    failed = [group for group in groups if group.failure is not None]
    reasons = "; ".join(f"{refusal.device}: {refusal.reason}" for refusal in report.refused[:3])
    tally = f"{len(report.refused)} refused, {len(report.lost)} lost)" + (f"; {reasons}" if reasons else "")
    if len(groups) == 1:
        why = "".join(group.record.left_out for group in failed)
        return f"the secure sum of {len(cohort.devices)} devices came to nothing, nothing of it was used ({why}; {tally}"
    why = "; ".join(f"{group.name}: {group.record.left_out}" for group in failed[:3])
    return (
        f"{len(groups) - len(failed)} of {len(groups)} groups gave a sum that can be used, it takes {cohort.fewest_groups} of them and"
        f" {cohort.quorum} devices; nothing was used ({why}; {tally}"
    )
