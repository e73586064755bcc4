"""The state machine of a training run: one step at a time, each committed before the next begins.

::

    INVITING ─► ROUND ─► ASSESSING ─► GATED ─► EXPORTING ─► PUBLISHING ─► COMPLETED
        │       ↺ k = 1..rounds          │          │
        └───────── FAILED / CANCELED     └──────────┴─► REJECTED_BY_GATE

Invariants:
    * `advance` is safe to call after a kill -9 at any point: it goes on after the last committed step. Steps that reach
      out (publish, start a rollout) are idempotent at the other end.
    * A step commits the next record and the vectors it made in one transaction.
    * A void round leaves the model as it was; `round_attempts` void attempts in a row end the run as FAILED. So many at the head of
      ASSESSING (three steps that make the fleet's prior, where devices judge by one) end those steps and not the run, unless there is
      nothing else to release.
    * A run of 0 rounds makes the prior anew and trains nothing.
    * Devices are invited exactly while the state is one of `runs.WITH_DEVICES`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
import numpy as np
import structlog

from aggregator.errors import AggregatorError, FlowerRunEndedError, SumError
from aggregator.privacy.accounts import PrivacyAccounts
from aggregator.privacy.claims import plain_claim
from aggregator.privacy.history import HeldRound
from aggregator.rounds.attendance import Attendance, Pacing
from aggregator.rounds.cohort_questions import CohortAnswer, is_used_up, log_round
from aggregator.rounds.family import FamilySettings
from aggregator.rounds.journal import (
    ANCHOR,
    ASSESSMENT,
    CHAMPION,
    GROUPS,
    MOMENTS,
    PARAMETERS,
    RunJournal,
)
from aggregator.rounds.optimizers import ServerOptimizer, make_server_optimizer
from aggregator.rounds.ports import Exporter, Federation, InvitationBoard, ReleaseFleet
from aggregator.rounds.privacy_plan import planned_questions
from aggregator.rounds.refit import ask_next, record_of, refits, why_no_work
from aggregator.rounds.releasing import Releasing
from aggregator.rounds.reports import GroupSum, RoundCanceledError
from aggregator.rounds.run_groups import is_grouped, planned_mode, protection, with_groups
from aggregator.rounds.runs import (
    WITH_DEVICES,
    RefitRecord,
    RoundRecord,
    RunState,
    TrainingRun,
)
from aggregator.rounds.training import assess_candidate, train_round
from models.bundles import ModelBundle
from protocol.errors import ProtocolError
from protocol.names import DeviceId
from protocol.privacy_claim import PrivacyClaim
from protocol.questions import ASSESS, COVARIANCE, REFIT_KINDS

__all__ = ["Coordinator"]

Outcome = TypeVar("Outcome")

_AFTER_JOINING: Final = WITH_DEVICES - {RunState.INVITING}
_BROKEN: Final = "the Flower session broke"
_log = structlog.get_logger()


class Coordinator:
    """Drives training runs, one at a time, from the thread that calls `advance`.

    Args:
        journal: of the runs.
        families: their settings by name.
        fleet, federation, board, exporter: the world (`aggregator.rounds.ports`).
        flower_address: what devices are told to dial.
        git_revision: for the provenance of releases.
        accounts: where secure runs are planned and their cost is read; None where every family is in plain.
    """

    def __init__(
        self,
        *,
        journal: RunJournal,
        families: Mapping[str, FamilySettings],
        fleet: ReleaseFleet,
        federation: Federation,
        board: InvitationBoard,
        exporter: Exporter,
        flower_address: str,
        pacing: Pacing,
        git_revision: str = "",
        accounts: PrivacyAccounts | None = None,
    ) -> None:
        self._families, self._fleet, self._federation, self._board = families, fleet, federation, board
        self._journal, self._flower_address, self._pacing = journal, flower_address, pacing
        self._attendance: Attendance | None = None
        self._accounts = accounts
        releasing = Releasing(journal, fleet, exporter, pacing, git_revision)
        self._steps: dict[RunState, Callable[[TrainingRun, FamilySettings], TrainingRun]] = {
            RunState.INVITING: self._invite,
            RunState.ROUND: self._train,
            RunState.ASSESSING: self._assess,
            RunState.GATED: releasing.judge,
            RunState.EXPORTING: releasing.export,
            RunState.PUBLISHING: releasing.publish,
        }

    def advance(self, run_id: str) -> TrainingRun:
        """Take a run as far as it goes and return its last record.

        Returns early, with the run unfinished, only when the service is stopping; call it again after the restart.
        """
        run = self._journal.store.get(run_id)
        try:
            while not run.is_over and not self._pacing.is_stopping():
                run = self._take_step(run)
                if run.state not in WITH_DEVICES:
                    self._dismiss(run)
        finally:
            self._dismiss(run)
        return run

    def _take_step(self, run: TrainingRun) -> TrainingRun:
        if self._journal.store.is_cancel_requested(run.id):
            return self._journal.end(run, RunState.CANCELED, "canceled on request")
        try:
            policy = self._families.get(run.family)
            if policy is None:
                return self._journal.end(
                    run,
                    RunState.FAILED,
                    f"family {run.family!r} is no longer in the settings; put it back or start anew",
                )
            if run.state in _AFTER_JOINING:
                # Devices train by the profile that is signed into their release, not by what the file says meanwhile.
                policy = policy.following(self._journal.champion(run).manifest.training)
            return self._steps[run.state](run, policy)
        except RoundCanceledError:
            return run  # the loop finds out who is ending: the run or the service
        except (AggregatorError, ProtocolError) as error:
            return self._journal.end(run, RunState.FAILED, str(error))
        except sqlite3.Error:
            raise  # the disk, not the run: the scheduler tries again later
        except Exception as error:  # noqa: BLE001 - a defect must end the run, clear its invitation and not be tried for ever
            _log.exception("run_crashed", run=run.id)
            words = f"internal error ({type(error).__name__}); the aggregator's log says where"
            return self._journal.end(run, RunState.FAILED, words)

    def _invite(self, run: TrainingRun, policy: FamilySettings) -> TrainingRun:
        content, bundle = self._journal.newest_release(self._fleet, run)
        parameters = bundle.parameters
        run = msgspec.structs.replace(
            run, base_release=bundle.manifest.release, layout_sha256=bundle.architecture.layout_sha256
        )
        if reason := why_no_work(run, policy, bundle):
            return self._journal.end(run, RunState.FAILED, reason)
        policy = policy.following(bundle.manifest.training)
        attendance = self._attend(run, policy)
        joined = attendance.gather()
        if len(joined) < policy.cohort.minimum_devices:
            return self._journal.end(
                run,
                RunState.FAILED,
                attendance.shortage
                or f"{len(joined)} devices joined within {policy.rounds.join_timeout_s:g} s, the quorum is {policy.cohort.minimum_devices}",
            )
        run = msgspec.structs.replace(run, mode=planned_mode(policy).value)
        run = self._grouped(run, policy, joined)
        if policy.secure_sum.enabled and self._accounts is not None:
            planned = planned_questions(run, policy, bundle, joined)
            self._accounts.plan_run(run.id, run.family, planned)
        return self._journal.commit(
            run,
            RunState.ROUND if run.rounds else RunState.ASSESSING,
            f"{len(joined)} devices have joined",
            {
                CHAMPION: content,
                ANCHOR: self._journal.anchor(run, self._fleet, bundle).tobytes(),
                PARAMETERS: parameters.tobytes(),
                MOMENTS: _optimizer(policy).init(parameters).tobytes(),
            },
        )

    def _train(self, run: TrainingRun, policy: FamilySettings) -> TrainingRun:
        bundle, model = self._journal.champion(run), self._journal.model(run)
        run = self._grouped(run, policy)
        outcome = self._try_round(
            run,
            lambda: train_round(
                run,
                policy,
                _optimizer(policy),
                architecture=bundle.architecture,
                model=model,
                anchors=self._journal.anchors(run),
                attendance=self._attend(run, policy),
                started_at=self._pacing.now(),
            ),
        )
        if outcome is None or outcome.total is None:
            if outcome is not None and run.finished_rounds and is_used_up(outcome.record):
                return self._end_training(run, outcome.record)
            return self._count_void(run, policy, None if outcome is None else outcome.record)
        finished = run.finished_rounds + 1
        run = msgspec.structs.replace(self._keep(run, policy, outcome.record), finished_rounds=finished)
        return self._journal.commit(
            run,
            RunState.ASSESSING if finished >= run.rounds else RunState.ROUND,
            f"round {finished} of {run.rounds} is done",
            {
                PARAMETERS: outcome.model.parameters.tobytes(),
                MOMENTS: outcome.model.moments.tobytes(),
            },
        )

    def _end_training(self, run: TrainingRun, record: RoundRecord) -> TrainingRun:
        """Go on with what is trained: owners let a copy of their windows answer so many rounds and no more (ten, unless they say otherwise)."""
        done = f"devices answer no more rounds of training from the windows they have; {run.finished_rounds} of {run.rounds} are done"
        record = msgspec.structs.replace(record, note=f"{record.note}; {done}")
        _log.warning("training_ended_early", run=run.id, reason=done)
        run = msgspec.structs.replace(run, rounds=run.finished_rounds, log=(*run.log, record), attempts=0)
        return self._journal.commit(run, RunState.ASSESSING, done)

    def _assess(self, run: TrainingRun, policy: FamilySettings) -> TrainingRun:
        bundle, model = self._journal.champion(run), self._journal.model(run)
        if run.refit is None and refits(policy, bundle):
            return self._refit(run, policy, bundle)
        run = self._grouped(run, policy)
        outcome = self._try_round(
            run,
            lambda: assess_candidate(
                run,
                policy,
                architecture=bundle.architecture,
                model=model,
                attendance=self._attend(run, policy),
                started_at=self._pacing.now(),
            ),
        )
        if outcome is None or outcome.total is None:
            return self._count_void(run, policy, None if outcome is None else outcome.record)
        return self._journal.commit(
            self._keep(run, policy, outcome.record),
            RunState.GATED,
            "the candidate is evaluated",
            {ASSESSMENT: outcome.total.tobytes(), **_of_groups(ASSESS, outcome.sums)},
        )

    def _refit(self, run: TrainingRun, policy: FamilySettings, bundle: ModelBundle) -> TrainingRun:
        """One of three steps before the assessment, each a question whose sum is kept; the last makes the fleet's prior."""
        sums, run = self._journal.refit_sums(run), self._grouped(run, policy)
        try:
            found = self._try_round(
                run,
                lambda: ask_next(
                    run,
                    policy,
                    sums,
                    bundle,
                    self._attend(run, policy),
                    started_at=self._pacing.now(),
                    spreads=self._journal.group_sums(run, COVARIANCE),
                ),
            )
            kind, asked = found or ("", None)
            if asked is None or asked.total is None:
                return self._count_missed(run, policy, bundle, asked)
            run = self._keep(run, policy, asked.record)
            if kind == REFIT_KINDS[-1]:
                made = record_of({**sums, kind: asked.total}, policy, bundle)
                run = msgspec.structs.replace(run, refit=made)
        except SumError as error:
            return self._keep_prior(run, bundle, str(error))
        made_of = {kind: asked.total.tobytes(), **_of_groups(kind, asked.sums)}
        return self._journal.commit(run, run.state, f"{kind} is summed over the fleet", made_of)

    def _keep_prior(self, run: TrainingRun, bundle: ModelBundle, why: str) -> TrainingRun:
        """Go on with the champion's prior, if there is one and anything else to release."""
        _log.warning("refit_missed", run=run.id, reason=why)
        if bundle.prior is None or not run.rounds:
            return self._journal.end(run, RunState.FAILED, f"the fleet's prior could not be made: {why}")
        record = RefitRecord(reason=f"the prior of {bundle.manifest.release} goes on: {why}")
        run = msgspec.structs.replace(run, refit=record, attempts=0)
        return self._journal.commit(run, run.state, record.reason)

    def _count_missed(
        self, run: TrainingRun, policy: FamilySettings, bundle: ModelBundle, asked: CohortAnswer | None
    ) -> TrainingRun:
        if run.attempts + 1 < policy.rounds.attempts:
            return self._count_void(run, policy, None if asked is None else asked.record)
        why = _BROKEN if asked is None else asked.record.note
        run = run if asked is None else msgspec.structs.replace(run, log=(*run.log, asked.record))
        return self._keep_prior(
            run, bundle, f"{run.attempts + 1} attempts in a row gave none; the last: {why}"
        )

    def _keep(self, run: TrainingRun, policy: FamilySettings, record: RoundRecord) -> TrainingRun:
        """The run with one more question that gave a sum, and what it has cost; not committed."""
        log_round(run, record)
        run = msgspec.structs.replace(run, log=(*run.log, record), attempts=0)
        return msgspec.structs.replace(run, privacy=self._claim(run, policy))

    def _claim(self, run: TrainingRun, policy: FamilySettings) -> PrivacyClaim:
        """What can be said of the run's privacy now: by the ledger, or that its answers are in plain."""
        if self._accounts is None or not policy.secure_sum.enabled:
            voids = sum(record.is_void for record in run.log)
            return plain_claim(
                devices=len(run.participants),
                used=len(run.log) - voids,
                void=voids,
                delta=policy.privacy.budget.delta,
            )
        return self._accounts.claim(run.family, run.id)

    def _try_round(self, run: TrainingRun, attempt: Callable[[], Outcome]) -> Outcome | None:
        try:
            return attempt()
        except FlowerRunEndedError as ended:
            # The session is gone, not the run: the next attempt opens another one.
            _log.warning("session_lost", run=run.id, reason=str(ended))
            self._dismiss(run)
            return None

    def _count_void(
        self, run: TrainingRun, policy: FamilySettings, record: RoundRecord | None
    ) -> TrainingRun:
        attempts = run.attempts + 1
        log = run.log if record is None else (*run.log, record)
        why = _BROKEN if record is None else record.note
        _log.warning("round_void", run=run.id, attempt=attempts, reason=why)
        run = msgspec.structs.replace(run, log=log, attempts=attempts)
        run = msgspec.structs.replace(run, privacy=self._claim(run, policy))
        if self._attendance is not None and (shortage := self._attendance.shortage):
            # Another attempt would wait for the same devices, which are there and do not answer.
            return self._journal.end(run, RunState.FAILED, f"too few devices answer: {shortage}")
        if attempts >= policy.rounds.attempts:
            return self._journal.end(
                run, RunState.FAILED, f"{attempts} attempts in a row gave no round; the last: {why}"
            )
        return self._journal.commit(run, run.state, f"attempt {attempts} of {policy.rounds.attempts}: {why}")

    def _attend(self, run: TrainingRun, policy: FamilySettings) -> Attendance:
        if self._attendance is None:
            members = self._journal.patiently(lambda: self._fleet.members(run.family), run)
            self._attendance = Attendance(
                run,
                policy,
                members,
                federation=self._federation,
                board=self._board,
                flower_address=self._flower_address,
                pacing=self._pacing,
                is_canceled=lambda: self._journal.store.is_cancel_requested(run.id),
                earlier=self._journal.earlier_rounds(run),
                answered=lambda: self._held_rounds(run),
            )
        return self._attendance

    def _held_rounds(self, run: TrainingRun) -> tuple[HeldRound, ...]:
        return () if self._accounts is None else self._accounts.rounds(run.family)

    def _grouped(
        self, run: TrainingRun, policy: FamilySettings, joined: frozenset[DeviceId] | None = None
    ) -> TrainingRun:
        """The run with the groups that its next question is put to: dealt anew after a void attempt, and for newcomers where training ends."""
        if not is_grouped(policy):
            return msgspec.structs.replace(run, protection=protection(run, policy))
        there = self._attend(run, policy).present() if joined is None else joined
        has_trained = run.state is RunState.ASSESSING and all(entry.kind == "fit" for entry in run.log)
        has_newcomers = not there <= {device for group in run.groups for device in group}
        if joined is not None or run.attempts or not run.groups or (has_trained and has_newcomers):
            run = with_groups(run, policy, there, self._held_rounds(run))
        return msgspec.structs.replace(run, protection=protection(run, policy))

    def _dismiss(self, run: TrainingRun) -> None:
        attendance, self._attendance = self._attendance, None
        if attendance is not None:
            attendance.close(run.state.value, is_over=run.state not in WITH_DEVICES)


def _of_groups(kind: str, sums: Sequence[GroupSum]) -> dict[str, bytes]:
    """The artifact with the groups' sums of a question that was put to several."""
    return {f"{kind} {GROUPS}": np.stack([one.total for one in sums]).tobytes()} if len(sums) > 1 else {}


def _optimizer(policy: FamilySettings) -> ServerOptimizer:
    return make_server_optimizer(policy.rounds.server_optimizer, policy.rounds.server_learning_rate)
