"""Removes what has been kept for long enough, a little at a time, so that nobody who stores waits for it.

::

    a look, without the write lock ─► something too old? ─► the oldest `at_once` rows in one short transaction ─► a pause ─► again

What is old and still needed stays (`_RULES` says what that is of each table): health that is not rolled up, or that an open rollout
may still compare; an anomaly that lasts, or on which a person's verdict stands; reports of an open rollout, and whatever
lies where the numbers of a boot were closed (`fleet.ingest.ranges`) until that boot has been silent for as long as anything is
kept: there the rows themselves say which of its events have come. A boot goes when it was silent for so long, nothing of it is
left, and its device has begun another: should it speak all the same, it is a new one, and what it says is nowhere else.
The audit log is kept for good: its lines are a chain, and one that is cut proves nothing.

Each condition is asked within the transaction that deletes, so a rollout that was begun after the look keeps what it needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import ColumnElement, CursorResult, and_, delete, exists, func, select, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from fleet import alert_places
from fleet.device_commands import OUTSTANDING
from fleet.retention.health_blocks import count_anew
from fleet.rollouts.states import GroupState, RolloutState
from fleet.settings import RetentionSettings
from fleet.storage.alert_tables import Alert, AlertDelivery, AlertGroup, AlertSilence
from fleet.storage.base import Database
from fleet.storage.block_tables import HealthBlock, RollUp
from fleet.storage.boot_tables import Boot, EventRange, IdentityConflict
from fleet.storage.command_tables import CommandRecord
from fleet.storage.device_tables import Desired, Device
from fleet.storage.event_tables import (
    Anomaly,
    AnomalyEnd,
    DriftRecord,
    HealthRecord,
    InstallRecord,
    Received,
)
from fleet.storage.outages import DatabaseAwayError, why_not_stored
from fleet.storage.rollout_tables import (
    RolloutExecution,
    RolloutGroup,
    RolloutLook,
    RolloutRecord,
    RolloutTransition,
)
from fleet.storage.verdict_tables import VerdictRecord

__all__ = ["Pruning"]

EVERY_S: Final = 30.0
"""Between looks where nothing was found."""

PAUSE_S: Final = 0.25
"""Between transactions where more waits: ingest has the write lock for the rest of the time."""

AT_ONCE: Final = 500
"""Rows in one transaction: some ten milliseconds; six times what ten thousand devices say meanwhile."""

HELD_S: Final = 14 * 86_400.0
"""How long an open rollout holds raw health back at most: one that was paused and forgotten must not fill the disk."""

FINISHED: Final = (RolloutState.COMPLETED, RolloutState.CANCELED, RolloutState.ROLLED_BACK)

_log = structlog.get_logger(__name__)

Conditions = Callable[[Session, RetentionSettings, float], ColumnElement[bool]]


@dataclass(frozen=True)
class _Rule:
    """Rows of `table` to remove: those for which `which` holds, in the order of `first`; `key` names a row.

    `hanging`: what in another table names it by the same columns, and goes before it.
    """

    table: type[Any]
    key: tuple[InstrumentedAttribute[Any], ...]
    first: InstrumentedAttribute[Any]
    which: Conditions
    hanging: tuple[InstrumentedAttribute[Any], ...] = ()


class Pruning:
    """Keeps tables as short as `settings` say.

    Args:
        database: the fleet's, as its leader writes to it.
        settings: how long what is kept.
        now: Unix seconds.
        at_once: most rows in one transaction.
    """

    def __init__(
        self,
        database: Database,
        settings: RetentionSettings,
        *,
        now: Callable[[], float],
        at_once: int = AT_ONCE,
    ) -> None:
        self._database, self._settings, self._now, self._at_once = database, settings, now, at_once

    async def run(self) -> None:
        """Prune until canceled. A database that is away is waited for."""
        while True:
            gone = 0
            for rule in _RULES:
                try:
                    gone += (now_gone := await asyncio.to_thread(self._prune, rule))
                except DatabaseAwayError:
                    break  # it has been told
                except SQLAlchemyError as error:
                    _log.error("not_pruned", table=rule.table.__tablename__, error=why_not_stored(error))
                    continue
                if now_gone:
                    await asyncio.sleep(PAUSE_S)
            if not gone:
                await asyncio.sleep(EVERY_S)

    def prune(self) -> dict[str, int]:
        """Remove at most `at_once` rows of each table; how many of which."""
        found = {rule.table.__tablename__: self._prune(rule) for rule in _RULES}
        return {table: count for table, count in found.items() if count}

    def _prune(self, rule: _Rule) -> int:
        with self._database.read() as session:
            if session.execute(self._old(session, rule).limit(1)).first() is None:
                return 0
        with self._database.write() as session:
            old = self._old(session, rule).limit(self._at_once).subquery()
            is_old = tuple_(*rule.key).in_(select(old))
            if rule.hanging:
                hangs = tuple_(*rule.hanging).in_(select(old))
                with_it = delete(rule.hanging[0].class_).where(hangs)
                session.execute(with_it.execution_options(synchronize_session=False))
            gone = session.execute(
                delete(rule.table).where(is_old).execution_options(synchronize_session=False)
            )
            if rule.table is HealthRecord:
                count_anew(session)
            if rule.table in alert_places.WATCHED:
                alert_places.count_anew(session)
            return gone.rowcount if isinstance(gone, CursorResult) else 0

    def _old(self, session: Session, rule: _Rule) -> Any:
        which = rule.which(session, self._settings, self._now())
        return select(*rule.key).where(which).order_by(rule.first)


def _health(session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    done_to = session.scalar(select(RollUp.done_to).where(RollUp.table_name == HealthRecord.__tablename__))
    # of the groups that are judged now, since when each device may run what it was given
    first_given = session.scalar(
        select(func.min(RolloutExecution.given_at))
        .join(
            RolloutGroup,
            and_(
                RolloutGroup.rollout == RolloutExecution.rollout,
                RolloutGroup.number == RolloutExecution.group,
            ),
        )
        .join(RolloutRecord, RolloutRecord.id == RolloutExecution.rollout)
        .where(
            RolloutRecord.state.not_in(FINISHED),
            RolloutGroup.state.in_((GroupState.RUNNING, GroupState.SOAKING)),
        )
    )
    before = now - settings.health_s
    if first_given is not None:
        before = min(before, max(first_given, now - HELD_S))
    return and_(
        HealthRecord.received_at < before,
        HealthRecord.id <= (done_to or 0),
        _is_not_asked_for(HealthRecord, settings, now),
    )


def _blocks(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    return HealthBlock.start < now - settings.blocks_s


def _anomalies(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    before = now - settings.anomalies_s
    has_ended = Anomaly.episode.is_(None) | exists().where(
        AnomalyEnd.device == Anomaly.device, AnomalyEnd.episode == Anomaly.episode
    )
    return and_(
        Anomaly.received_at < before,
        has_ended,
        ~exists().where(VerdictRecord.anomaly == Anomaly.id),
        _is_not_asked_for(Anomaly, settings, now),
    )


def _ends(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    before = now - settings.anomalies_s
    stands = exists().where(Anomaly.device == AnomalyEnd.device, Anomaly.episode == AnomalyEnd.episode)
    return and_(AnomalyEnd.received_at < before, ~stands, _is_not_asked_for(AnomalyEnd, settings, now))


def _drift(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    before = now - settings.drift_s
    return and_(DriftRecord.received_at < before, _is_not_asked_for(DriftRecord, settings, now))


def _installs(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    before = now - settings.installs_s
    is_open = exists().where(
        RolloutRecord.state.not_in(FINISHED), InstallRecord.execution.like(RolloutRecord.id + ":%")
    )
    return and_(InstallRecord.received_at < before, ~is_open, _is_not_asked_for(InstallRecord, settings, now))


def _commands(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    before = now - settings.commands_s
    return and_(
        CommandRecord.status.not_in(OUTSTANDING),
        CommandRecord.expires_at < before,
        CommandRecord.changed_at < before,
    )


def _timeline(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    return RolloutTransition.rollout.in_(_finished(now - settings.timelines_s))


def _of_rollouts(column: InstrumentedAttribute[str]) -> Conditions:
    def which(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
        return column.in_(_finished(now - settings.rollouts_s, is_wished=False))

    return which


def _rollouts(session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    of = _of_rollouts(RolloutRecord.id)(session, settings, now)
    hanging = (RolloutTransition, RolloutExecution, RolloutGroup, RolloutLook)
    return and_(of, *(~exists().where(table.rollout == RolloutRecord.id) for table in hanging))


def _alerts(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    before = now - settings.alerts_s
    is_told = exists().where(AlertGroup.id == Alert.group, AlertGroup.resolved_at.is_(None))
    return and_(Alert.settled_at < before, ~is_told)


def _deliveries(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    old = select(AlertGroup.id).where(AlertGroup.resolved_at < now - settings.alerts_s)
    return AlertDelivery.group.in_(old)


def _groups(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    hangs = (exists().where(table.group == AlertGroup.id) for table in (Alert, AlertDelivery))
    return and_(AlertGroup.resolved_at < now - settings.alerts_s, *(~one for one in hangs))


def _silences(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    return AlertSilence.ends_at < now - settings.alerts_s


def _finished(before: float, *, is_wished: bool | None = None) -> Any:
    """Rollouts that were over then; `is_wished` False: and no device shall still run what one of them gave it."""
    done = aliased(RolloutRecord)
    found = select(done.id).where(done.state.in_(FINISHED), done.since < before)
    wished = exists().where(Desired.execution.like(done.id + ":%"))
    return found if is_wished is None else found.where(~wished)


def _is_not_asked_for(table: type[Received], settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    """Not where the rows themselves tell which events of a boot have come: below `closed_to` of one that may still speak."""
    return ~exists().where(
        Boot.device == table.device,
        Boot.boot_id == table.boot_id,
        Boot.closed_to >= table.sequence,
        Boot.last_received >= _all_is_gone_before(settings, now),
    )


def _boots(_session: Session, settings: RetentionSettings, now: float) -> ColumnElement[bool]:
    before = _all_is_gone_before(settings, now)
    is_present = exists().where(Device.id == Boot.device, Device.boot_id == Boot.boot_id)
    is_watched = exists().where(IdentityConflict.device == Boot.device)
    tables: tuple[type[Received], ...] = (Anomaly, AnomalyEnd, DriftRecord, HealthRecord, InstallRecord)
    left = (exists().where(table.device == Boot.device, table.boot_id == Boot.boot_id) for table in tables)
    # it began before it was heard last: few boots are so old, and an index knows them
    return and_(
        Boot.first_received < before,
        Boot.last_received < before,
        ~is_present,
        ~is_watched,
        *(~one for one in left),
    )


def _all_is_gone_before(settings: RetentionSettings, now: float) -> float:
    """What came before that is kept nowhere as it came."""
    kept_s = (
        settings.health_s,
        settings.anomalies_s,
        settings.drift_s,
        settings.installs_s,
        settings.blocks_s,
    )
    return now - max(kept_s)


_RULES: Final = (
    _Rule(HealthRecord, (HealthRecord.id,), HealthRecord.received_at, _health),
    _Rule(
        HealthBlock,
        (HealthBlock.device, HealthBlock.start, HealthBlock.release),
        HealthBlock.start,
        _blocks,
    ),
    _Rule(Anomaly, (Anomaly.id,), Anomaly.received_at, _anomalies),
    _Rule(AnomalyEnd, (AnomalyEnd.id,), AnomalyEnd.received_at, _ends),
    _Rule(DriftRecord, (DriftRecord.id,), DriftRecord.received_at, _drift),
    _Rule(InstallRecord, (InstallRecord.id,), InstallRecord.received_at, _installs),
    _Rule(
        Boot,
        (Boot.device, Boot.boot_id),
        Boot.first_received,
        _boots,
        hanging=(EventRange.device, EventRange.boot_id),
    ),
    _Rule(CommandRecord, (CommandRecord.device, CommandRecord.number), CommandRecord.expires_at, _commands),
    _Rule(RolloutTransition, (RolloutTransition.id,), RolloutTransition.id, _timeline),
    # what hangs on a rollout goes before it
    _Rule(
        RolloutLook,
        (RolloutLook.rollout, RolloutLook.group, RolloutLook.number),
        RolloutLook.rollout,
        _of_rollouts(RolloutLook.rollout),
    ),
    _Rule(
        RolloutExecution,
        (RolloutExecution.rollout, RolloutExecution.device),
        RolloutExecution.rollout,
        _of_rollouts(RolloutExecution.rollout),
    ),
    _Rule(
        RolloutGroup,
        (RolloutGroup.rollout, RolloutGroup.number),
        RolloutGroup.rollout,
        _of_rollouts(RolloutGroup.rollout),
    ),
    _Rule(RolloutRecord, (RolloutRecord.id,), RolloutRecord.since, _rollouts),
    _Rule(Alert, (Alert.id,), Alert.settled_at, _alerts),
    _Rule(AlertDelivery, (AlertDelivery.id,), AlertDelivery.id, _deliveries),
    _Rule(AlertGroup, (AlertGroup.id,), AlertGroup.resolved_at, _groups),
    _Rule(AlertSilence, (AlertSilence.id,), AlertSilence.ends_at, _silences),
)
