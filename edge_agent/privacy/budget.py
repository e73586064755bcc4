"""This device's own privacy account: every masked answer is charged here before it leaves, or does not leave.

The limits are the device owner's (``[privacy]`` in agent.toml); an aggregator may announce stricter ones, never looser.
Kept in ``privacy.sqlite`` of the state directory, apart from bundles and keys: a restart, a new model or a rollback changes
nothing. A damaged file is never replaced by an empty one, because that would be a new budget: the device then refuses
every round until a person looks.

Not an account of what the aggregator released: a round that is void for it has been charged here all the same, for the device
cannot know. So the device's figure is never below the aggregator's.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

from msgspec import Meta, Struct

from edge_agent.errors import (
    AlreadyGivenError,
    EpsilonSpentError,
    NoiseRequiredError,
    ParticipationsSpentError,
)
from protocol.privacy_cost import PrivacyCost, epsilon
from runtime.durable_files import fsync_directory
from runtime.errors import StorageError

__all__ = ["ChargeLimits", "DeviceBudget", "Spending"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS charges (
    number INTEGER PRIMARY KEY, run TEXT NOT NULL, round TEXT NOT NULL, at REAL NOT NULL,
    rho REAL NOT NULL, xi REAL NOT NULL, noised INTEGER NOT NULL, UNIQUE (run, round)
) STRICT;
CREATE TRIGGER IF NOT EXISTS charges_stay BEFORE UPDATE ON charges BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS charges_last BEFORE DELETE ON charges BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""


class ChargeLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and how much, over the whole life of the device; an owner's, or a run's. None is no limit."""

    maximum_participations: int | None = None
    """Answers to rounds."""
    maximum_epsilon: Annotated[float, Meta(gt=0)] | None = None
    """ε that all answers together may cost. None: rounds without noise, which no ε describes, are answered too."""
    delta: Annotated[float, Meta(gt=0, lt=1)] = 1e-6
    """Goes with every ε; below one over the number of devices in the fleet."""
    require_noise: bool = False
    """Refuse sums without differential privacy even where no `maximum_epsilon` is set."""


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What was given so far: answers, how many of them without noise, when the last (Unix seconds).

    `cost` is the sum over the noised answers; `epsilon` its ε, or infinity once an answer without noise has left;
    `noised_epsilon` leaves those out.
    """

    participations: int
    noiseless: int
    cost: PrivacyCost
    epsilon: float
    noised_epsilon: float
    last_at_s: float | None


class DeviceBudget:
    """The account. Use as a context manager, or `close` it.

    Args:
        path: the SQLite file; made where it is missing.
        limits: the owner's.

    Raises:
        StorageError: the file cannot be opened, or is damaged; take part in nothing.
    """

    def __init__(self, path: Path, limits: ChargeLimits) -> None:
        self._path, self._limits = path, limits
        try:
            self._db = _connect(path)
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"the privacy account {path} cannot be used: {error}; no round is answered until it can. Restore the file, "
                "or have the owner decide about a new one: what was given stays given"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def charge(
        self,
        run: str,
        round_name: str,
        cost: PrivacyCost,
        *,
        now_s: float,
        announced: ChargeLimits | None = None,
    ) -> Spending:
        """Charge one masked answer; on return the charge survives a power cut and the answer may leave.

        Args:
            run: the training run.
            round_name: the attempt within it, e.g. ``train.fit 3.1``; each is given once.
            cost: `protocol.privacy_cost.planned_cost` of the round's noise; infinite `rho` without noise.
            now_s: Unix seconds, for the record only; no limit depends on the clock.
            announced: the run's limits; the stricter of both holds, each ε at the `delta` it was set for.

        Raises:
            ParticipationsSpentError, EpsilonSpentError, NoiseRequiredError, AlreadyGivenError: this answer must not leave;
                nothing was charged. The message is fit to be sent to the aggregator.
            StorageError: the charge cannot be made durable; the answer must not leave.
        """
        noised = _is_noised(cost)
        try:
            # Immediate: a second process (an orphaned learner) waits here and then sees this charge.
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._refuse_repeats(run, round_name)
                self._refuse_excess(cost, announced)
                self._db.execute(
                    "INSERT INTO charges (run, round, at, rho, xi, noised) VALUES (?, ?, ?, ?, ?, ?)",
                    (run, round_name, now_s, cost.rho if noised else 0.0, cost.xi if noised else 0.0, noised),
                )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            return self._read()
        except sqlite3.Error as error:
            raise StorageError(
                f"the privacy account {self._path} does not take the charge: {error}; this answer does not leave the device"
            ) from None

    def check(self, cost: PrivacyCost, announced: ChargeLimits | None = None) -> None:
        """Raise as `charge` would, and charge nothing: to decline a round before training for it."""
        try:
            self._refuse_excess(cost, announced)
        except sqlite3.Error as error:
            raise StorageError(f"the privacy account {self._path} cannot be read: {error}") from None

    def spending(self) -> Spending:
        """What this device has given so far.

        Raises:
            StorageError: the file cannot be read.
        """
        try:
            return self._read()
        except sqlite3.Error as error:
            raise StorageError(f"the privacy account {self._path} cannot be read: {error}") from None

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._db.close()

    def _refuse_repeats(self, run: str, round_name: str) -> None:
        if self._db.execute(
            "SELECT 1 FROM charges WHERE run = ? AND round = ?", (run, round_name)
        ).fetchone():
            raise AlreadyGivenError(
                f"this device has answered {round_name!r} of run {run!r} before; a repeated round needs a new attempt number"
            )

    def _refuse_excess(self, cost: PrivacyCost, announced: ChargeLimits | None) -> None:
        spent = self._read()
        for limits in (self._limits, announced):
            if limits is not None:
                _refuse_excess(limits, spent, cost)

    def _read(self) -> Spending:
        count, noiseless, rho, xi, last = self._db.execute(
            "SELECT count(*), coalesce(sum(NOT noised), 0), total(rho), total(xi), max(at) FROM charges"
        ).fetchone()
        cost = PrivacyCost(rho=rho, xi=xi)
        noised_epsilon = epsilon(cost, self._limits.delta)
        return Spending(
            participations=count,
            noiseless=noiseless,
            cost=cost,
            epsilon=math.inf if noiseless else noised_epsilon,
            noised_epsilon=noised_epsilon,
            last_at_s=last,
        )


def _is_noised(cost: PrivacyCost) -> bool:
    # NaN fails the comparison too: a cost that cannot be read must not pass as a small one.
    if not (cost.rho >= 0 and cost.xi >= 0):
        raise ValueError(f"a privacy cost is never negative, got rho {cost.rho} and xi {cost.xi}")
    return math.isfinite(cost.rho) and math.isfinite(cost.xi)


def _refuse_excess(limits: ChargeLimits, spent: Spending, cost: PrivacyCost) -> None:
    cap = limits.maximum_participations
    if cap is not None and spent.participations >= cap:
        raise ParticipationsSpentError(
            f"this device has given {spent.participations} answers, {cap} are allowed (privacy.maximum_participations)"
        )
    if not _is_noised(cost) and (limits.require_noise or limits.maximum_epsilon is not None):
        raise NoiseRequiredError(
            "this device answers only rounds with noise (privacy.require_noise, or a privacy.maximum_epsilon that no sum without noise fits into); this round has none"
        )
    if limits.maximum_epsilon is None:
        return
    if spent.noiseless:
        raise EpsilonSpentError(
            f"this device has given {spent.noiseless} answers without noise before; no epsilon budget of {limits.maximum_epsilon:g} can hold any more"
        )
    after = epsilon(spent.cost + cost, limits.delta)
    if after > limits.maximum_epsilon:
        raise EpsilonSpentError(
            f"this answer would bring the device's epsilon to {after:.4g}, {limits.maximum_epsilon:g} is allowed at delta {limits.delta:g} "
            f"(privacy.maximum_epsilon; {epsilon(spent.cost, limits.delta):.4g} is spent)"
        )


def _connect(path: Path) -> sqlite3.Connection:
    is_new = not path.exists()
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    try:
        path.chmod(0o600)
        db.execute("PRAGMA cache_size = -256")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(_SCHEMA)
        _require_sound(db)
        if is_new:
            fsync_directory(path.parent)
    except BaseException:
        db.close()
        raise
    return db


def _require_sound(db: sqlite3.Connection) -> None:
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("the integrity check found damage")
