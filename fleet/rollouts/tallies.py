"""How many devices of a rollout stand where, stored beside it: who shows a rollout, or a page of them, reads no execution.

What is stored is the index that the decisions keep (`fleet.rollouts.executions.Index`), as it is after each decision. Whoever
changes executions otherwise, or finds none stored, counts them by the database.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fleet.rollouts.executions import Execution, Index, Mark
from fleet.rollouts.plans import RolloutPlan
from fleet.storage.rollout_tables import RolloutExecution, RolloutRecord
from protocol.messages.kinds import InstallStatus
from protocol.names import DeviceId

__all__ = ["count_stored", "in_group", "pack", "tallies_of", "unpack"]


class _Kind(NamedTuple):
    """What the tally of an execution follows from; the order is that of the columns in `count_stored`."""

    group: int
    state: str
    attempt: int
    allowed: int
    is_unheard: bool
    is_awaited: bool
    is_given: bool
    is_held: bool
    is_returned: bool
    is_restored: bool
    is_superseded: bool

    def example(self, failed_at: float | None) -> Execution:
        """An execution that counts as this kind does."""
        return Execution(
            device=DeviceId(""),
            group=self.group,
            state=InstallStatus(self.state),
            attempt=self.attempt,
            allowed=self.allowed,
            is_unheard=self.is_unheard,
            is_awaited=self.is_awaited,
            given_at=0.0 if self.is_given else None,
            held_until=0.0 if self.is_held else None,
            returned_at=0.0 if self.is_returned else None,
            restored_at=0.0 if self.is_restored else None,
            superseded_by="" if self.is_superseded else None,
            failed_at=failed_at,
        )


def count_stored(session: Session, plan: RolloutPlan, rollout_id: str) -> Index:
    """The tallies of a rollout, counted by the database; due times are not in it."""
    e = RolloutExecution
    kind = (
        *(e.group, e.state, e.attempt, e.allowed, e.is_unheard, e.is_awaited),
        *(
            column.is_not(None)
            for column in (e.given_at, e.held_until, e.returned_at, e.restored_at, e.superseded_by)
        ),
    )
    rows = session.execute(
        select(func.count(), func.max(e.failed_at), *kind).where(e.rollout == rollout_id).group_by(*kind)
    )
    index = Index()
    for number, failed_at, *columns in rows:
        index.count(plan, _Kind(*columns).example(failed_at), number)
    return index


def tallies_of(session: Session, record: RolloutRecord) -> Index:
    """How many devices of a rollout stand where."""
    if record.tallies is not None:
        return unpack(record.tallies)
    return count_stored(session, msgspec.convert(record.plan, RolloutPlan), record.id)


def pack(index: Index) -> dict[str, Any]:
    """`index` as it is stored."""
    counts = sorted((group, str(state), str(mark), n) for (group, state, mark), n in index.counts.items())
    return {
        "counts": [list(one) for one in counts],
        "awaited": index.awaited,
        "late": index.late,
        "superseded": index.superseded,
        "failed_at": index.failed_at,
    }


def unpack(stored: dict[str, Any]) -> Index:
    """What `pack` made."""
    index = Index()
    index.counts = {
        (group, InstallStatus(state), Mark(mark)): n for group, state, mark, n in stored["counts"]
    }
    index.awaited, index.late = stored["awaited"], stored["late"]
    index.superseded, index.failed_at = stored["superseded"], stored["failed_at"]
    return index


def in_group(index: Index, number: int | None) -> dict[str, int]:
    """How many devices of a group (None: of all) are in each state."""
    counts: Counter[str] = Counter()
    for (group, state, _), n in index.counts.items():
        if number is None or group == number:
            counts[str(state)] += n
    return dict(counts)
