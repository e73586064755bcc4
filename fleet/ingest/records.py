"""Events as rows: which table each belongs to, and which of two words on one end of an anomaly counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from fleet.ingest.boots import BootBook, position_of
from fleet.ingest.judging import Accepted
from fleet.storage.boot_tables import Position
from fleet.storage.bulk import among
from fleet.storage.event_tables import (
    Anomaly,
    AnomalyEnd,
    DriftRecord,
    HealthRecord,
    InstallRecord,
    Received,
)
from protocol.messages.kinds import Kind

__all__ = ["TABLE_OF", "make_row", "only_first_ends"]

TABLE_OF: Final[Mapping[Kind, type[Received]]] = {
    Kind.ANOMALY: Anomaly,
    Kind.CLOSED: AnomalyEnd,
    Kind.DRIFT: DriftRecord,
    Kind.HEALTH: HealthRecord,
    Kind.REPORT: InstallRecord,
}
"""Kinds that are records of their own; the others only change the view of their device."""

_HEALTH_COLUMNS: Final = (
    "release",
    "anomaly_rate",
    "drift_score",
    "drifted",
    "inference_p99_us",
    "interval_windows",
    "interval_judged",
    "state",
    "interval_s",
    "memory_pss_bytes",
    "sight",
    "score_mean",
    "score_max",
    "threshold",
)


def make_row(accepted: Accepted, fields: dict[str, Any]) -> dict[str, Any]:
    """The columns of a message in its table; `fields` is its data as `plain_data` gives it."""
    event = accepted.event
    identity = {
        "device": event.source,
        "boot_id": event.boot_id,
        "sequence": event.sequence,
        "sent_at": event.time,
        "received_at": accepted.arrival.received_at,
    }
    match accepted.kind:
        case Kind.ANOMALY:
            episode = fields["episode"] or None
            # it is over where nothing will be told of its end, or that has come: triggers know
            return (
                identity
                | fields
                | {
                    "window": accepted.window,
                    "episode": episode,
                    "is_open": episode is not None,
                }
            )
        case Kind.HEALTH:
            # as it travelled: with every default in it, it would be two thirds of what a fleet's database takes
            told = msgspec.to_builtins(event.data)
            return identity | {name: fields[name] for name in _HEALTH_COLUMNS} | {"payload": told}
        case _:
            return identity | fields


def only_first_ends(
    session: Session, rows: Sequence[dict[str, Any]], boots: BootBook
) -> list[dict[str, Any]]:
    """Those of `rows` that are to be stored: of each anomaly the end that its device said first.

    A device that was killed before it learnt that its word had arrived says it again under another sequence. An end that
    is stored already and was said later gives way.
    """
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        episode = (row["device"], row["episode"])
        if episode not in first or _place(row, boots) < _place(first[episode], boots):
            first[episode] = row
    if not first:
        return []
    known = session.execute(
        select(
            AnomalyEnd.id, AnomalyEnd.device, AnomalyEnd.episode, AnomalyEnd.boot_id, AnomalyEnd.sequence
        ).where(among(session, [AnomalyEnd.device, AnomalyEnd.episode], first))
    ).all()
    boots.add({(row.device, row.boot_id) for row in known} - boots.known.keys())
    later = []
    for stored in known:
        here = first[stored.device, stored.episode]
        there = {"device": stored.device, "boot_id": stored.boot_id, "sequence": stored.sequence}
        if _place(here, boots) < _place(there, boots):
            later.append(stored.id)
        else:
            del first[stored.device, stored.episode]
    if later:
        session.execute(
            delete(AnomalyEnd).where(AnomalyEnd.id.in_(later)).execution_options(synchronize_session=False)
        )
    return list(first.values())


def _place(row: Mapping[str, Any], boots: BootBook) -> Position:
    return position_of(boots.known[row["device"], row["boot_id"]], row["sequence"])
