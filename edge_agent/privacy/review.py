"""The account as its owner reads it: what was given, from which windows, with whom, what is left, and what was declined last."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from edge_agent.privacy.answered import answers_since, standing_of
from edge_agent.privacy.elapsed import DAY_S
from edge_agent.privacy.limits import OwnerLimits
from edge_agent.privacy.query_policy import allowed_reveals
from edge_agent.privacy.snapshots import Snapshot, newest_snapshot
from protocol.names import DeviceId
from protocol.privacy_cost import PrivacyCost
from protocol.questions import KINDS, TRAINING_KINDS, Kind

__all__ = ["AskedOfSnapshot", "Given", "Refused", "Review", "given_so_far", "review_of"]


@dataclass(frozen=True, kw_only=True)
class AskedOfSnapshot:
    """One kind of question on the present allowance; answers within an ε of the owner's are not counted."""

    kind: Kind
    answered: int
    answers_allowed: int
    revealed: int
    reveals_allowed: int


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The last refusal: its code travelled, its words did not. Unix seconds."""

    at_s: float
    code: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Review:
    """What of the query policy is used up. `allowance_age_s` counts the device's own time since the allowance began."""

    answers_today: int
    snapshot: Snapshot
    allowance_age_s: float
    asked: tuple[AskedOfSnapshot, ...]
    companions: tuple[DeviceId, ...]
    refused: Refused | None


@dataclass(frozen=True, kw_only=True)
class Given:
    """One charge, in the order in which they were made. `kind` is one that this or an older agent knew.

    `survivors` are how many devices were in the sum that this device opened; None where it opened none, or where an older agent, which
    did not record that, answered (`is_recorded` is then False). `cost` is that of the sum that was opened, None without noise.
    """

    number: int
    run: str
    kind: str
    round_number: int
    at_s: float
    is_recorded: bool
    survivors: int | None
    cost: PrivacyCost | None


def review_of(db: sqlite3.Connection, limits: OwnerLimits, elapsed_s: float) -> Review:
    """How it stands now, `elapsed_s` by the account's count of time."""
    snapshot = newest_snapshot(db)
    standings = {kind: standing_of(db, kind, snapshot, limits) for kind in KINDS}
    refusal = db.execute("SELECT at, code, words FROM refusal").fetchone()
    trained = [sum_ for kind in KINDS if kind in TRAINING_KINDS for sum_ in standings[kind].together]
    return Review(
        answers_today=answers_since(db, elapsed_s - DAY_S),
        snapshot=snapshot,
        allowance_age_s=elapsed_s - snapshot.began_s,
        asked=tuple(
            AskedOfSnapshot(
                kind=kind,
                answered=standing.attempts,
                answers_allowed=limits.attempts_per_reveal * allowed_reveals(kind, limits),
                revealed=standing.reveals,
                reveals_allowed=allowed_reveals(kind, limits),
            )
            for kind, standing in standings.items()
        ),
        companions=tuple(sorted(trained[0])) if trained and limits.fixed_companions else (),
        refused=Refused(at_s=refusal[0], code=refusal[1], words=refusal[2]) if refusal else None,
    )


def given_so_far(db: sqlite3.Connection) -> tuple[Given, ...]:
    """Every charge, and what became of it as far as this device knows."""
    found = db.execute(
        "SELECT c.number, c.run, c.round, c.at, a.number IS NOT NULL, r.survivors, r.rho, r.xi FROM charges AS c "
        "LEFT JOIN answers AS a USING (number) LEFT JOIN reveals AS r USING (number) ORDER BY c.number"
    )
    return tuple(
        Given(
            number=number,
            run=run,
            kind=name.split()[0],
            round_number=_round_of(name),
            at_s=at_s,
            is_recorded=bool(is_recorded),
            survivors=None if survivors is None else len(json.loads(survivors)),
            cost=None if rho is None else PrivacyCost(rho=rho, xi=xi),
        )
        for number, run, name, at_s, is_recorded, survivors, rho, xi in found
    )


def _round_of(name: str) -> int:
    """Of ``train.fit 3 session``, or of ``train.fit 3.1`` as the oldest agents called it."""
    parts = name.split()
    digits = parts[1].split(".")[0] if len(parts) > 1 else ""
    return int(digits) if digits.isdecimal() else 0
