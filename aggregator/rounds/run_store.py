"""The runs on disk: one SQLite file that a kill -9 at any point leaves at the last finished step.

A step's record and the vectors it made (parameters, optimiser state, sums) are committed in ONE transaction with
``synchronous=FULL``, so they can never disagree. A cancellation is asked for by another thread and is therefore a
column of its own, not a part of the record.

One connection, guarded by a lock: the worker writes a few times a minute, the API reads.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.errors import RunConflictError, UnknownRunError
from aggregator.rounds.runs import FINAL_STATES, TrainingRun
from protocol.names import FamilyName, RunId

__all__ = ["RunStore"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, family TEXT NOT NULL, created_at REAL NOT NULL, ended_at REAL,
    record BLOB NOT NULL, cancel_requested INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_open_run_per_family ON runs (family) WHERE ended_at IS NULL;
CREATE TABLE IF NOT EXISTS artifacts (
    run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, name TEXT NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (run, name)
) STRICT;
DROP TABLE IF EXISTS networks;
"""
_decoder = msgspec.json.Decoder(TrainingRun)


class RunStore:
    """Training runs and the artifacts of those under way.

    Args:
        path: the SQLite file; made where it is missing, its folder too.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file; nothing is pending, every write was committed."""
        with self._lock:
            self._db.close()

    def add(self, run: TrainingRun) -> None:
        """Store a new run.

        Raises:
            RunConflictError: the family has a run under way; names it.
        """
        with self._lock:
            try:
                self._db.execute(
                    "INSERT INTO runs (id, family, created_at, ended_at, record) VALUES (?, ?, ?, ?, ?)",
                    (run.id, run.family, run.created_at, run.ended_at, msgspec.json.encode(run)),
                )
            except sqlite3.IntegrityError:
                row = self._db.execute(
                    "SELECT id FROM runs WHERE family = ? AND ended_at IS NULL", (run.family,)
                ).fetchone()
                raise RunConflictError(
                    f"family {run.family!r} is already training in run {(row[0] if row else run.id)!r}; wait for its end or cancel it"
                ) from None

    def save(self, run: TrainingRun, artifacts: Mapping[str, bytes] | None = None) -> None:
        """Commit a run's next record and what its step made, together; an ended run loses its artifacts."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute(
                    "UPDATE runs SET record = ?, ended_at = ? WHERE id = ?",
                    (msgspec.json.encode(run), run.ended_at, run.id),
                )
                for name, content in (artifacts or {}).items():
                    self._db.execute(
                        "INSERT OR REPLACE INTO artifacts VALUES (?, ?, ?)", (run.id, name, content)
                    )
                if run.state in FINAL_STATES:
                    self._db.execute("DELETE FROM artifacts WHERE run = ?", (run.id,))
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def get(self, run: str) -> TrainingRun:
        """The last record of a run; raises UnknownRunError where there is none."""
        found = self.find(run)
        if found is None:
            raise UnknownRunError(f"no training run has the id {run[:80]!r}")
        return found

    def find(self, run: str) -> TrainingRun | None:
        """The last record of a run; None where there is none."""
        with self._lock:
            row = self._db.execute("SELECT record FROM runs WHERE id = ?", (run,)).fetchone()
        return None if row is None else _decoder.decode(row[0])

    def recent(
        self, *, family: str | None = None, before: str | None = None, limit: int = 100
    ) -> list[TrainingRun]:
        """Runs, the newest first; only those that are older than run `before`."""
        with self._lock:
            rows = self._db.execute(
                "SELECT record FROM runs WHERE (?1 IS NULL OR family = ?1) AND (?2 IS NULL OR (created_at, rowid) <"
                " (SELECT created_at, rowid FROM runs WHERE id = ?2)) ORDER BY created_at DESC, rowid DESC LIMIT ?3",
                (family, before, limit),
            ).fetchall()
        return [_decoder.decode(row[0]) for row in rows]

    def unfinished(self) -> list[TrainingRun]:
        """Runs with steps left, the oldest first: what a restart takes up again."""
        with self._lock:
            rows = self._db.execute(
                "SELECT record FROM runs WHERE ended_at IS NULL ORDER BY created_at, rowid"
            ).fetchall()
        return [_decoder.decode(row[0]) for row in rows]

    def ended_after(self, at: float, run: str, *, limit: int) -> list[TrainingRun]:
        """Runs that ended after Unix second `at`, or then and whose id comes after `run`; in that order, at most `limit`."""
        with self._lock:
            rows = self._db.execute(
                "SELECT record FROM runs WHERE (ended_at, id) > (?, ?) ORDER BY ended_at, id LIMIT ?",
                (at, run, limit),
            ).fetchall()
        return [_decoder.decode(row[0]) for row in rows]

    def last_ended_at(self, family: FamilyName) -> float | None:
        """When the family's last run ended, Unix seconds; None when none ever did."""
        with self._lock:
            (ended,) = self._db.execute(
                "SELECT MAX(ended_at) FROM runs WHERE family = ?", (family,)
            ).fetchone()
        return None if ended is None else float(ended)

    def request_cancel(self, run: str) -> TrainingRun:
        """Ask for the end of a run; it stops at its next look. Asking twice is no error.

        Raises:
            UnknownRunError: no such run.
            RunConflictError: it has ended already.
        """
        record = self.get(run)
        with self._lock:
            asked = self._db.execute(
                "UPDATE runs SET cancel_requested = 1 WHERE id = ? AND ended_at IS NULL", (run,)
            ).rowcount
        if not asked:
            raise RunConflictError(f"run {run} has ended ({record.state.value}); there is nothing to cancel")
        return record

    def is_cancel_requested(self, run: RunId) -> bool:
        """Whether somebody asked for the end of this run."""
        with self._lock:
            row = self._db.execute("SELECT cancel_requested FROM runs WHERE id = ?", (run,)).fetchone()
        return bool(row and row[0])

    def artifact(self, run: RunId, name: str) -> bytes:
        """What a step of an unfinished run left behind; raises UnknownRunError where there is none."""
        with self._lock:
            row = self._db.execute(
                "SELECT content FROM artifacts WHERE run = ? AND name = ?", (run, name)
            ).fetchone()
        if row is None:
            raise UnknownRunError(f"run {run} has no artifact {name!r}")
        return bytes(row[0])

    def vector(self, run: RunId, name: str) -> NDArray[np.float64]:
        """An artifact that was stored as float64 bytes, shape (n,)."""
        return np.frombuffer(self.artifact(run, name), np.float64).copy()
