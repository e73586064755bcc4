"""This device's own privacy account: what it may be asked, what it has given, and the record of both before anything leaves.

::

    check ─► check_cohort ─► charge ─► (data, masked answer leaves) ─► reveal ─► (shares leave)
      │           │            └─ one fsynced transaction each, and again every rule: another learner may have been faster
      └───────────┴─ read only: a question that would be refused later is refused before anybody works for it

The limits are the device owner's (`[privacy]` in agent.toml); an aggregator may announce stricter ones, never looser. Kept in
``privacy.sqlite`` of the state directory, apart from bundles and keys: a restart, a new model, a rollback or another name of
the device changes nothing. A damaged file is never replaced by an empty one, because that would be a new allowance.

Not an account of what the aggregator released: a round that is void for it has been charged here all the same, for the device
cannot know. So the device's figure is never below the aggregator's. The rules are `query_policy` and `charges`.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edge_agent.errors import PrivacyRefusedError
from edge_agent.privacy.account_file import AccountFile
from edge_agent.privacy.answered import answers_since, record_reveal, standing_of
from edge_agent.privacy.charges import (
    Cover,
    Spending,
    cover_of,
    offered,
    read_spending,
    refuse_excess,
    revealed_cost,
)
from edge_agent.privacy.elapsed import DAY_S, Clock, Moment, passed_s, system_moment
from edge_agent.privacy.limits import ChargeLimits, OwnerLimits
from edge_agent.privacy.query_policy import check_attempt, check_day, check_devices
from edge_agent.privacy.review import Given, Review, given_so_far, review_of
from edge_agent.privacy.snapshots import (
    Content,
    Snapshot,
    newest_snapshot,
    remove_others,
    renew_snapshot,
)
from edge_agent.sample_buffer import BufferedRows
from protocol.names import DeviceId
from protocol.privacy_cost import RoundNoise
from protocol.questions import Kind
from protocol.refusals import RefusalCode
from runtime.errors import StorageError

__all__ = ["AskedSum", "DeviceAccount"]

_REFUSALS_EVERY_S: Final = 10.0
"""Refusals are written down no oftener, the last one when the account is closed: who asks without end must not wear out the card."""


@dataclass(frozen=True, kw_only=True)
class AskedSum:
    """One attempt at one question, as announced.

    Attributes:
        kind: of the question.
        run: the training run.
        round_number: in the run.
        session: of the attempt; a retry has another one.
        noise: as planned, from this device's own encoding of the terms; mechanism "none" without.
        announced: the run's own limits, the stricter of both hold, each ε at its own δ.
    """

    kind: Kind
    run: str
    round_number: int
    session: str
    noise: RoundNoise
    announced: ChargeLimits

    @property
    def name(self) -> str:
        """What the attempt is called among the charges of its run."""
        return f"{self.kind} {self.round_number} {self.session}"


class DeviceAccount:
    """The account. Use as a context manager, or `close` it. Raises PrivacyRefusedError with a code, or StorageError; then nothing leaves.

    Args:
        path: the SQLite file; made where it is missing.
        limits: the owner's.
        clock: now.
        snapshots: the folder of the copies; where it holds one, a missing account is lost and not new.

    Raises:
        StorageError: the file cannot be opened, or is damaged; take part in nothing.
    """

    def __init__(
        self,
        path: Path,
        limits: OwnerLimits,
        *,
        clock: Clock = system_moment,
        snapshots: Path | None = None,
    ) -> None:
        self._limits, self._clock, self._folder = limits, clock, snapshots
        self._file = AccountFile(path, traces=snapshots is not None and any(snapshots.glob("snapshot-*")))
        self._answers_from: int | None = None
        self._cohort: tuple[str, frozenset[DeviceId]] | None = None
        self._told_s = -math.inf
        self._untold: tuple[RefusalCode, str, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; of what counts nothing is pending, of what was declined perhaps the last."""
        if self._untold is not None:
            self._write_refusal(*self._untold)
        self._file.close()

    def take_snapshot(self, content: Content, buffered: BufferedRows) -> BufferedRows:
        """The rows that this device answers from, until it is closed: a copy that is there, or a new one where that is due.

        Args:
            content: what the values of a row are.
            buffered: the newest rows of the buffer.

        Raises:
            NotReadyError: too few windows.
            StorageError: the disk refuses.
        """
        if self._folder is None:
            raise ValueError("this account was opened without a folder for snapshots")
        with self._file.writing() as db:
            rows = renew_snapshot(
                db,
                self._folder,
                content,
                buffered,
                limits=self._limits,
                elapsed_s=self._pass_time(db),
                now_s=self._clock().wall_s,
            )
            taken = newest_snapshot(db)
        self._answers_from = taken.number
        with contextlib.suppress(StorageError), self._file.writing() as db:
            remove_others(self._folder, newest_snapshot(db))
        return rows

    def check(self, asked: AskedSum) -> None:
        """At the advertisement: refuse what `charge` would refuse, and charge nothing."""
        with self._file.reading() as db:
            self._check(db, asked)

    def check_cohort(self, asked: AskedSum, cohort: frozenset[DeviceId]) -> None:
        """Before shares of keys are left with others: refuse a cohort whose sum this device would not reveal."""
        with self._file.reading() as db:
            self._check_devices(db, asked, cohort)
        self._cohort = asked.session, cohort

    def charge(self, asked: AskedSum, *, now_s: float) -> None:
        """Before data are touched; on return the charge survives a power cut.

        Args:
            asked: the attempt; `check_cohort` was called for it.
            now_s: Unix seconds, for the record only; no limit depends on a clock that can be set.
        """
        with self._file.writing() as db:
            if self._cohort is None or self._cohort[0] != asked.session:
                raise PrivacyRefusedError(
                    RefusalCode.ORDER, f"no cohort was checked for {asked.name!r} of run {asked.run!r}"
                )
            cover = self._check_devices(db, asked, self._cohort[1])
            noise = offered(asked.noise, self._limits)
            rho, xi = (noise.cost.rho, noise.cost.xi) if noise.is_noised else (0.0, 0.0)
            number = db.execute(
                "INSERT INTO charges (run, round, at, rho, xi, noised) VALUES (?, ?, ?, ?, ?, ?)",
                (asked.run, asked.name, now_s if math.isfinite(now_s) else 0.0, rho, xi, noise.is_noised),
            ).lastrowid
            snapshot = newest_snapshot(db)
            db.execute(
                "INSERT INTO answers (number, kind, snapshot, allowance, cover, elapsed_s) VALUES (?, ?, ?, ?, ?, ?)",
                (number, asked.kind, snapshot.number, snapshot.allowance, cover, self._pass_time(db)),
            )

    def reveal(self, asked: AskedSum, survivors: frozenset[DeviceId]) -> None:
        """Before a share leaves: over whom a sum of this attempt is opened; durable on return."""
        with self._file.writing() as db:
            found = db.execute(
                "SELECT a.number, a.cover, a.snapshot, r.number FROM charges AS c JOIN answers AS a USING (number) "
                "LEFT JOIN reveals AS r USING (number) WHERE c.run = ? AND c.round = ?",
                (asked.run, asked.name),
            ).fetchone()
            if found is None or found[3] is not None:
                what = "was not charged" if found is None else "was revealed before"
                raise PrivacyRefusedError(RefusalCode.ORDER, f"{asked.name!r} of run {asked.run!r} {what}")
            number, cover, answered_from, _ = found
            _refuse_unnoised(asked.noise, survivors)
            if cover < Cover.EPSILON:
                snapshot = newest_snapshot(db)
                _refuse_old(answered_from, snapshot)
                standing = standing_of(db, asked.kind, snapshot, self._limits)
                # The attempt itself is among those that were counted; what is left to ask is whether it may be the one revealed.
                check_attempt(standing, self._limits, is_counted=True)
                if cover == Cover.NONE:
                    check_devices(standing, survivors, self._limits)
                _refuse_passed(db, number, asked.kind)
            record_reveal(db, number, survivors, revealed_cost(asked.noise, len(survivors)))
            self._pass_time(db)

    def refuse(self, code: RefusalCode, words: str) -> None:
        """Write down why a question was declined, here or elsewhere, for the owner; a disk that refuses changes nothing."""
        now = self._clock()
        if now.uptime_s - self._told_s >= _REFUSALS_EVERY_S:
            self._told_s = now.uptime_s
            self._write_refusal(code, words, now.wall_s)
        else:
            self._untold = code, words, now.wall_s

    def _write_refusal(self, code: RefusalCode, words: str, at_s: float) -> None:
        self._untold = None
        with contextlib.suppress(StorageError), self._file.writing() as db:
            db.execute(
                "REPLACE INTO refusal (id, at, code, words) VALUES (1, ?, ?, ?)", (at_s, code.value, words)
            )

    def spending(self) -> Spending:
        """What this device has given so far; raises StorageError where the file cannot be read."""
        with self._file.reading() as db:
            return read_spending(db, self._limits)

    def review(self) -> Review:
        """How the query policy stands now, for the owner; raises StorageError where the file cannot be read."""
        with self._file.reading() as db:
            return review_of(db, self._limits, self._elapsed(db)[1])

    def given(self) -> tuple[Given, ...]:
        """Every charge and what became of it; raises StorageError where the file cannot be read."""
        with self._file.reading() as db:
            return given_so_far(db)

    def _check(self, db: sqlite3.Connection, asked: AskedSum) -> Cover:
        """How far noise hides this device in the attempt; raises where it is refused whatever its cohort."""
        if db.execute(
            "SELECT 1 FROM charges WHERE run = ? AND round = ?", (asked.run, asked.name)
        ).fetchone():
            raise PrivacyRefusedError(
                RefusalCode.ORDER,
                f"this device has answered {asked.name!r} of run {asked.run!r} before; a repeated round needs a new session",
            )
        spent, noise = read_spending(db, self._limits), offered(asked.noise, self._limits)
        refuse_excess(noise, spent, self._limits, asked.announced)
        check_day(answers_since(db, self._elapsed(db)[1] - DAY_S), self._limits)
        snapshot = newest_snapshot(db)
        if self._answers_from is not None:
            _refuse_old(self._answers_from, snapshot)
        cover = cover_of(noise, self._limits)
        if cover < Cover.EPSILON:
            check_attempt(standing_of(db, asked.kind, snapshot, self._limits), self._limits)
        return cover

    def _check_devices(self, db: sqlite3.Connection, asked: AskedSum, cohort: frozenset[DeviceId]) -> Cover:
        cover = self._check(db, asked)
        _refuse_unnoised(asked.noise, cohort)
        if cover is Cover.NONE:
            check_devices(
                standing_of(db, asked.kind, newest_snapshot(db), self._limits), cohort, self._limits
            )
        return cover

    def _elapsed(self, db: sqlite3.Connection) -> tuple[Moment, float]:
        now = self._clock()
        found = db.execute("SELECT boot, uptime_s, wall_s, elapsed_s FROM elapsed").fetchone()
        if found is None:
            return now, 0.0
        boot, uptime_s, wall_s, elapsed_s = found
        return now, elapsed_s + passed_s(Moment(boot=boot, uptime_s=uptime_s, wall_s=wall_s), now)

    def _pass_time(self, db: sqlite3.Connection) -> float:
        """Count the time that has passed since it was last counted; returns it, in seconds since this account began to count."""
        now, elapsed_s = self._elapsed(db)
        db.execute(
            "REPLACE INTO elapsed (id, boot, uptime_s, wall_s, elapsed_s) VALUES (1, ?, ?, ?, ?)",
            (now.boot, now.uptime_s, now.wall_s, elapsed_s),
        )
        return elapsed_s


def _refuse_unnoised(noise: RoundNoise, devices: frozenset[DeviceId]) -> None:
    """Refuse a sum over fewer devices than the noise was charged for."""
    fewest = noise.noise_shares + noise.colluders
    if noise.mechanism != "none" and len(devices) < fewest:
        raise PrivacyRefusedError(
            RefusalCode.NOISE,
            f"the noise of {fewest} devices was announced, the sum would be over {len(devices)}",
        )


def _refuse_passed(db: sqlite3.Connection, number: int, kind: Kind) -> None:
    """Refuse to open a sum after a later attempt of its kind was answered: else sums in a ring are solved for each device.

    One learner forgets an attempt when it begins another; two of them at once must not remember one for each other.
    """
    (newest,) = db.execute("SELECT max(number) FROM answers WHERE kind = ?", (kind,)).fetchone()
    if newest != number:
        raise PrivacyRefusedError(
            RefusalCode.ORDER, f"a later attempt at {kind} was answered by this device; this one is over"
        )


def _refuse_old(answered_from: int, present: Snapshot) -> None:
    if answered_from != present.number:
        raise PrivacyRefusedError(
            RefusalCode.SNAPSHOT,
            f"this learner answers from snapshot {answered_from}, another one of this device took snapshot {present.number}; this one must end",
        )
