"""What was answered and revealed so far, as the account's file remembers it and the query policy asks for it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from edge_agent.privacy.charges import Cover
from edge_agent.privacy.limits import OwnerLimits
from edge_agent.privacy.query_policy import Standing
from edge_agent.privacy.snapshots import Snapshot, new_share
from protocol.names import DeviceId
from protocol.privacy_cost import PrivacyCost
from protocol.questions import Kind

__all__ = ["answers_since", "record_reveal", "standing_of"]


def standing_of(db: sqlite3.Connection, kind: Kind, snapshot: Snapshot, limits: OwnerLimits) -> Standing:
    """What was asked of one kind, as far as it matters for the present snapshot."""
    attempts, reveals = db.execute(
        "SELECT count(*), count(r.number) FROM answers AS a LEFT JOIN reveals AS r USING (number) "
        "WHERE a.kind = ? AND a.allowance = ? AND a.cover < ?",
        (kind, snapshot.allowance, Cover.EPSILON),
    ).fetchone()
    together: dict[str, None] = {}
    earlier: dict[str, None] = {}
    share = new_share(db, snapshot)
    # Newest first: once enough is new since one sum, as much is new since all that are older.
    for survivors, allowance, end in db.execute(
        "SELECT r.survivors, a.allowance, coalesce(s.end, 0) FROM reveals AS r JOIN answers AS a USING (number) "
        "LEFT JOIN snapshots AS s ON s.number = a.snapshot WHERE a.kind = ? AND a.cover = ? ORDER BY r.number DESC",
        (kind, Cover.NONE),
    ):
        if allowance == snapshot.allowance:
            together[survivors] = None
        elif share(end) < limits.renewed_share:
            earlier[survivors] = None
        else:
            break
    return Standing(
        kind=kind,
        attempts=attempts,
        reveals=reveals,
        together=tuple(map(_decode, together)),
        earlier=tuple(map(_decode, earlier)),
    )


def answers_since(db: sqlite3.Connection, elapsed_s: float) -> int:
    """Masked answers that were charged later than that."""
    return int(db.execute("SELECT count(*) FROM answers WHERE elapsed_s > ?", (elapsed_s,)).fetchone()[0])


def record_reveal(
    db: sqlite3.Connection, number: int, survivors: Iterable[DeviceId], cost: PrivacyCost | None
) -> None:
    """Of the charge `number`; `cost` as its sum over these survivors is to be counted, None without noise."""
    db.execute(
        "INSERT INTO reveals (number, survivors, rho, xi) VALUES (?, ?, ?, ?)",
        (number, json.dumps(sorted(survivors)), cost and cost.rho, cost and cost.xi),
    )


def _decode(devices: str) -> frozenset[DeviceId]:
    return frozenset(map(DeviceId, json.loads(devices)))
