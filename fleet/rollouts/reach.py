"""How many devices a word to a rollout would reach, before it is said; and for which reasons devices failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fleet.rollouts.executions import RETRYABLE
from fleet.rollouts.states import FAILURES
from fleet.storage.rollout_tables import RolloutExecution
from protocol.messages.kinds import InstallStatus

__all__ = ["FailureCount", "Reach", "count_failures", "read_reach"]

MOST_REASONS: Final = 50


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Devices of a rollout, counted: `all`, those that `wait` for the release, have it (`holding`), or may be tried again (`retryable`).

    `under_way`: of those that have it, how many are installing now. `waiting_in`: those that wait, by group.
    """

    all: int = 0
    waiting: int = 0
    holding: int = 0
    under_way: int = 0
    retryable: int = 0
    waiting_in: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class FailureCount:
    """So many devices ended in `state` for this reason; `example` is one of them."""

    state: str
    reason: str
    devices: int
    example: str


def read_reach(session: Session, rollout_id: str) -> Reach:
    """Counted now, in one pass over the rollout's devices; nothing of a rollout that is not there."""
    given = RolloutExecution.given_at.is_not(None)
    holds = given & RolloutExecution.returned_at.is_(None) & RolloutExecution.superseded_by.is_(None)
    rows = session.execute(
        select(
            RolloutExecution.group,
            RolloutExecution.state,
            func.count(),
            func.count().filter(holds),
            func.count().filter(~given),
        )
        .where(RolloutExecution.rollout == rollout_id)
        .group_by(RolloutExecution.group, RolloutExecution.state)
    ).all()
    waiting_in: dict[int, int] = {}
    counts = dict.fromkeys(("all", "waiting", "holding", "under_way", "retryable"), 0)
    for group, state, many, holding, ungiven in rows:
        waits = ungiven if state == InstallStatus.QUEUED else 0
        waiting_in[group] = waiting_in.get(group, 0) + waits
        counts["all"] += many
        counts["waiting"] += waits
        counts["holding"] += holding
        counts["under_way"] += holding if state == InstallStatus.IN_PROGRESS else 0
        counts["retryable"] += holding if state in RETRYABLE else 0
    return Reach(waiting_in=waiting_in, **counts)


def count_failures(session: Session, rollout_id: str) -> list[FailureCount]:
    """Why devices did not end on the release, the commonest reason first; at most `MOST_REASONS`."""
    rows = session.execute(
        select(
            RolloutExecution.state,
            RolloutExecution.reason,
            func.count().label("devices"),
            func.min(RolloutExecution.device),
        )
        .where(RolloutExecution.rollout == rollout_id, RolloutExecution.state.in_(sorted(FAILURES)))
        .group_by(RolloutExecution.state, RolloutExecution.reason)
        .order_by(func.count().desc(), RolloutExecution.state, RolloutExecution.reason)
        .limit(MOST_REASONS)
    )
    return [
        FailureCount(state=state, reason=reason, devices=devices, example=example)
        for state, reason, devices, example in rows
    ]
