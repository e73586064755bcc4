"""Rolls health messages up into blocks of ten minutes, each message exactly once.

::

    health_reports ──(id > done_to, a few at once)──► sums by device, block and release ──► health_blocks, done_to
                     read without the write lock                                            one short transaction

Invariants: a message counts in one block, however often the service is killed, and whoever else rolls up as well: the sums and
`done_to` are one transaction, which gives up where `done_to` has moved meanwhile, or a message was erased. Ids are in the order of commits, because
writers are serialised, so nothing appears behind `done_to`. A message counts in the block of its arrival: late ones in a later
block, and where our clock steps, in the block that it said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import case, func, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from fleet.repeating import repeat
from fleet.storage.base import Database
from fleet.storage.block_tables import BLOCK_S, MOST_DRIFT, MOST_SECONDS, MOST_WINDOWS, HealthBlock, RollUp
from fleet.storage.event_tables import HealthRecord

__all__ = ["HIGHEST", "HealthRollUp", "count_anew", "highest", "sum_up"]

EVERY_S: Final = 60.0
"""How old a message may be that is in no block: two of a device at once are half as many writes as one by one."""

AT_ONCE: Final = 2000
"""Messages in one transaction: some 30 ms of the write lock."""

PAUSE_S: Final = 0.2
"""Between transactions where more waits: after an upgrade, a week of messages."""

HIGHEST: Final = ("score_max", "threshold_max")
"""Of these a block has the largest that was told, None where none was."""

_SUMS: Final = (
    *("reports", "seconds", "windows", "judged", "over", "latency_count", "latency_sum", "drift_sum"),
    *(
        "memory_count",
        "memory_t",
        "memory_tt",
        "memory_y",
        "memory_ty",
        "sight_count",
        "sight_sum",
        "silences",
    ),
)


class HealthRollUp:
    """Keeps `health_blocks` behind `health_reports` by a minute at most.

    Args:
        database: the fleet's.
        offline_after_s: a device that says nothing for longer is silent, seconds.
        at_once: messages in one transaction.
    """

    def __init__(self, database: Database, *, offline_after_s: float, at_once: int = AT_ONCE) -> None:
        self._database = database
        self._offline_after_s = offline_after_s
        self._at_once = at_once

    async def run(self) -> None:
        """Roll up until canceled. A database that is away is waited for."""
        await repeat(self.roll_up, every_s=EVERY_S, pause_s=PAUSE_S, failed="health_not_rolled_up")

    def roll_up(self) -> bool:
        """Take the next messages into their blocks; whether more wait."""
        with self._database.read() as session:
            done_to = _done_to(session)
            rows = session.execute(
                _MESSAGES.where(HealthRecord.id > (done_to or 0)).limit(self._at_once)
            ).all()
        if not rows:
            return False
        blocks = sum_up(rows, self._offline_after_s)
        with self._database.write() as session:
            # or another has rolled them up meanwhile, or some are gone: of an erased device nothing may come back
            taken = HealthRecord.id.between((done_to or 0) + 1, rows[-1].id)
            still = session.scalar(select(func.count()).select_from(HealthRecord).where(taken))
            if _done_to(session) != done_to or still != len(rows):
                return True
            _add(session, blocks, self._offline_after_s)
            session.merge(RollUp(table_name=HealthRecord.__tablename__, done_to=rows[-1].id))
        return len(rows) == self._at_once


_MESSAGES: Final = select(
    HealthRecord.id,
    HealthRecord.device,
    HealthRecord.received_at,
    HealthRecord.release,
    HealthRecord.anomaly_rate,
    HealthRecord.drift_score,
    HealthRecord.inference_p99_us,
    HealthRecord.interval_windows,
    HealthRecord.interval_judged,
    HealthRecord.interval_s,
    HealthRecord.memory_pss_bytes,
    HealthRecord.sight,
    HealthRecord.score_max,
    HealthRecord.threshold,
).order_by(HealthRecord.id)


def count_anew(session: Session) -> None:
    """After messages were deleted: SQLite gives the numbers of the last ones once more, and what comes under them is in no block yet."""
    last = select(func.coalesce(func.max(HealthRecord.id), 0)).scalar_subquery()
    ahead = (RollUp.table_name == HealthRecord.__tablename__) & (RollUp.done_to > last)
    session.execute(
        update(RollUp).where(ahead).values(done_to=last).execution_options(synchronize_session=False)
    )


def _done_to(session: Session) -> int | None:
    return session.scalar(select(RollUp.done_to).where(RollUp.table_name == HealthRecord.__tablename__))


def sum_up(rows: Iterable[Any], offline_after_s: float) -> list[dict[str, Any]]:
    """The blocks that messages make, as columns of `HealthBlock`.

    Args:
        rows: of health messages, in any order.
        offline_after_s: the longest time between two messages that is no silence, seconds.
    """
    blocks: dict[tuple[str, int, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row.received_at):
        start = int(row.received_at // BLOCK_S) * BLOCK_S
        key = (row.device, start, row.release or "")
        block = blocks.get(key)
        if block is None:
            block = blocks[key] = dict.fromkeys(_SUMS, 0) | {
                "device": row.device,
                "start": start,
                "release": row.release or "",
                "first_at": row.received_at,
                "silence_at": None,
                **dict.fromkeys(HIGHEST),
            }
        elif row.received_at - block["last_at"] > offline_after_s:
            block["silences"] += 1
            if block["silence_at"] is None:
                block["silence_at"] = block["last_at"] + offline_after_s
        block["last_at"] = row.received_at
        _count(block, row)
    return list(blocks.values())


def _count(block: dict[str, Any], row: Any) -> None:
    windows = min(row.interval_windows, int(MOST_WINDOWS))
    judged = windows if row.interval_judged is None else min(row.interval_judged, int(MOST_WINDOWS))
    block["reports"] += 1
    block["seconds"] += min(max(row.interval_s or 0.0, 0.0), MOST_SECONDS)
    block["windows"] += windows
    block["judged"] += judged
    block["over"] += min(max(row.anomaly_rate, 0.0), 1.0) * judged
    block["drift_sum"] += math.log(min(max(row.drift_score, 0.0), MOST_DRIFT) + 0.01)
    if judged and row.inference_p99_us > 0:
        block["latency_count"] += 1
        block["latency_sum"] += math.log(row.inference_p99_us)
    if row.memory_pss_bytes:
        hours, size = (row.received_at - block["start"]) / 3600, math.log(row.memory_pss_bytes)
        block["memory_count"] += 1
        block["memory_t"] += hours
        block["memory_tt"] += hours * hours
        block["memory_y"] += size
        block["memory_ty"] += hours * size
    if judged:
        told = zip(HIGHEST, (row.score_max, row.threshold), strict=True)
        block |= {name: highest(block[name], value) for name, value in told}
    if row.sight is not None:
        block["sight_count"] += 1
        block["sight_sum"] += row.sight


def highest(one: float | None, other: float | None) -> float | None:
    """The larger of two where both are known, else the one that is."""
    return max((value for value in (one, other) if value is not None), default=None)


def _add(session: Session, blocks: list[dict[str, Any]], offline_after_s: float) -> None:
    """Add the sums of `blocks` to those that are stored."""
    insert = postgresql_insert if session.get_bind().dialect.name == "postgresql" else sqlite_insert
    statement = insert(HealthBlock)
    new, old = statement.excluded, HealthBlock
    # what was quiet between the messages that are summed and those that come to them
    is_silence = new.first_at - old.last_at > offline_after_s
    began = func.coalesce(case((is_silence, old.last_at + offline_after_s)), new.silence_at)
    changed = {name: getattr(old, name) + new[name] for name in _SUMS if name != "silences"}
    for name in HIGHEST:
        mine, come = getattr(old, name), new[name]
        changed[name] = case((mine > come, mine), else_=func.coalesce(come, mine))
    changed["silences"] = old.silences + new.silences + case((is_silence, 1), else_=0)
    changed["silence_at"] = func.coalesce(old.silence_at, began)
    changed["first_at"] = case((new.first_at < old.first_at, new.first_at), else_=old.first_at)
    changed["last_at"] = case((new.last_at > old.last_at, new.last_at), else_=old.last_at)
    session.connection().execute(
        statement.on_conflict_do_update(index_elements=["device", "start", "release"], set_=changed), blocks
    )
