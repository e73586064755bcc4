"""Joins blocks of ten minutes that nobody compares any more into blocks of an hour: a sixth of the rows for the rest of their time.

A block of an hour has the start of its first ten minutes and is a row of the same table: sums stay sums. It lies on
`fine_blocks_s` and beyond, where no rollout's baseline reaches. Goes on where it stopped: `RollUp` says up to which hour all are joined.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from fleet.repeating import repeat
from fleet.retention.health_blocks import HIGHEST, highest
from fleet.storage.base import Database
from fleet.storage.block_tables import HealthBlock, RollUp

__all__ = ["HOUR_S", "HourBlocks", "join_blocks"]

HOUR_S: Final = 3600

EVERY_S: Final = 300.0
PAUSE_S: Final = 0.25
"""Between transactions where more waits."""

DEVICES_AT_ONCE: Final = 50
"""Whose blocks of one hour are joined in one transaction: some 300 rows, ten milliseconds."""

_ADDED: Final = (
    *("reports", "seconds", "windows", "judged", "over", "latency_count", "latency_sum", "drift_sum"),
    *("memory_count", "memory_y", "sight_count", "sight_sum", "silences"),
)
_NAMES: Final = tuple(column.key for column in HealthBlock.__table__.columns)


class HourBlocks:
    """Joins what is older than `fine_blocks_s`.

    Args:
        database: the fleet's, as its leader writes to it.
        fine_blocks_s: how long blocks of ten minutes are kept, seconds.
        offline_after_s: a device that says nothing for longer is silent, seconds.
        now: Unix seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        fine_blocks_s: float,
        offline_after_s: float,
        now: Callable[[], float],
    ) -> None:
        self._database, self._now = database, now
        self._fine_blocks_s, self._offline_after_s = fine_blocks_s, offline_after_s

    async def run(self) -> None:
        """Join until canceled. A database that is away is waited for."""
        await repeat(self.join, every_s=EVERY_S, pause_s=PAUSE_S, failed="blocks_not_joined")

    def join(self) -> bool:
        """Join the blocks of some devices in the oldest hour that has blocks to join; whether more may wait."""
        before = int((self._now() - self._fine_blocks_s) // HOUR_S) * HOUR_S
        with self._database.read() as session:
            hour = _next_hour(session, before)
            if hour is None:
                return False
            devices = _devices(session, hour)
        with self._database.write() as session:
            if devices:
                _join_in(session, hour, devices, self._offline_after_s)
            else:
                session.merge(RollUp(table_name=HealthBlock.__tablename__, done_to=hour + HOUR_S))
        return True


def join_blocks(blocks: Iterable[HealthBlock], offline_after_s: float) -> dict[str, Any]:
    """One block of an hour out of those of one device and release within it, as columns of `HealthBlock`."""
    first, *rest = sorted(blocks, key=lambda block: block.first_at)
    start = first.start // HOUR_S * HOUR_S
    joined = {name: getattr(first, name) for name in _NAMES} | {"start": start}
    joined |= _memory_from(first, start)
    for block in rest:
        for name in _ADDED:
            joined[name] += getattr(block, name)
        for name in HIGHEST:
            joined[name] = highest(joined[name], getattr(block, name))
        for name, value in _memory_from(block, start).items():
            joined[name] += value
        began = joined["last_at"] + offline_after_s
        if block.first_at > began:
            joined["silences"] += 1
            joined["silence_at"] = joined["silence_at"] or began
        joined["silence_at"] = joined["silence_at"] or block.silence_at
        joined["last_at"] = max(joined["last_at"], block.last_at)
    return joined


def _memory_from(block: HealthBlock, start: int) -> dict[str, float]:
    """The sums of t, t² and t y of a block, with t counted from another `start`."""
    later, count = (block.start - start) / HOUR_S, block.memory_count
    return {
        "memory_t": block.memory_t + later * count,
        "memory_tt": block.memory_tt + 2 * later * block.memory_t + later * later * count,
        "memory_ty": block.memory_ty + later * block.memory_y,
    }


def _next_hour(session: Session, before: int) -> int | None:
    done_to = select(RollUp.done_to).where(RollUp.table_name == HealthBlock.__tablename__)
    first = session.scalar(
        select(func.min(HealthBlock.start)).where(HealthBlock.start >= (session.scalar(done_to) or 0))
    )
    if first is None or first // HOUR_S * HOUR_S >= before:
        return None
    return int(first) // HOUR_S * HOUR_S


def _devices(session: Session, hour: int) -> list[str]:
    within = HealthBlock.start.between(hour + 1, hour + HOUR_S - 1)
    return list(session.scalars(select(HealthBlock.device).where(within).distinct().limit(DEVICES_AT_ONCE)))


def _join_in(session: Session, hour: int, devices: list[str], offline_after_s: float) -> None:
    mine = (HealthBlock.start.between(hour, hour + HOUR_S - 1), HealthBlock.device.in_(devices))
    blocks: dict[tuple[str, str], list[HealthBlock]] = defaultdict(list)
    for block in session.scalars(select(HealthBlock).where(*mine)):
        blocks[block.device, block.release].append(block)
    joined = [join_blocks(some, offline_after_s) for some in blocks.values()]
    gone = delete(HealthBlock).where(*mine).execution_options(synchronize_session=False)
    session.connection().execute(gone)
    if joined:
        session.connection().execute(insert(HealthBlock), joined)
