"""The windows that questions are answered from: a copy that stays the same while the buffer goes on.

::

    buffer ─► which windows are new? ─► due: >= 32 new, >= 24 h since the last allowance began ─► copy ─► recorded in the account
                     │                    └─ no ─► the copy that is there
                     └─ other columns (a new release), or a new scale: a copy of those, on what is left of the same allowance

The copy is written, fsynced and renamed before the account records it, within one transaction of the account: a kill leaves the old copy, or
the new one, and never a new allowance without its windows. A window is known again by its two times, so that rows which are scaled
anew, moved or kept twice are not new. Not a judge of what may be asked: `query_policy`.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import NotReadyError
from edge_agent.privacy.limits import OwnerLimits
from edge_agent.sample_buffer import BufferedRows
from models.standardiser import Standardiser
from protocol.manifest import FeatureSpec
from runtime.durable_files import private_directory, write_durably
from runtime.errors import StorageError

__all__ = [
    "Content",
    "Snapshot",
    "content_of",
    "new_share",
    "newest_snapshot",
    "remove_others",
    "renew_snapshot",
]

_log: Final = logging.getLogger(__name__)
_HEAD: Final = struct.Struct("<8sII")
_MAGIC: Final = b"FEDGESN1"
_KNOWN: Final = np.dtype([("machine_s", "<f8"), ("wall_s", "<f8"), ("serial", "<i8")])
"""A window by its times, and its place among all that were ever in a snapshot; -1: older than the snapshots that knew it."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What rows are made of: the fingerprint of their `columns`, and of the `scale` they are in."""

    columns: str
    scale: str

    def __str__(self) -> str:
        """As it is recorded."""
        return f"{self.columns}:{self.scale}"


def content_of(columns: FeatureSpec, scale: Standardiser | None) -> Content:
    """What rows of these columns are, in the scale that this device has now."""
    values = b"" if scale is None else msgspec.json.encode((scale.mean, scale.std))
    return Content(columns=columns.fingerprint, scale=hashlib.sha256(values).hexdigest()[:32])


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One copy: `allowance` is the number of the snapshot whose questions count for this one too, mostly its own.

    `end`: windows ever seen when it was taken. `began_s`: when its allowance began, in seconds of `edge_agent.privacy.elapsed`.
    """

    number: int = 0
    allowance: int = 0
    content: str = ""
    sha256: str = ""
    rows: int = 0
    end: int = 0
    at_s: float = 0.0
    began_s: float = 0.0


def newest_snapshot(db: sqlite3.Connection) -> Snapshot:
    """The present one; number 0, on which everything counts, before the first."""
    found = db.execute(
        "SELECT s.number, s.allowance, s.content, s.sha256, s.rows, s.end, s.at, a.elapsed_s FROM snapshots AS s "
        "JOIN snapshots AS a ON a.number = s.allowance ORDER BY s.number DESC LIMIT 1"
    ).fetchone()
    if found is None:
        return Snapshot()
    number, allowance, content, sha256, rows, end, at_s, began_s = found
    return Snapshot(
        number=number, allowance=allowance, content=content, sha256=sha256, rows=rows, end=end, at_s=at_s, began_s=began_s
    )  # fmt: skip


def renew_snapshot(
    db: sqlite3.Connection,
    folder: Path,
    content: Content,
    buffered: BufferedRows,
    *,
    limits: OwnerLimits,
    elapsed_s: float,
    now_s: float,
) -> BufferedRows:
    """The rows to answer from, of a new copy where one is due; within a transaction of the account.

    Args:
        db: the account, being written.
        folder: where copies lie, for them alone.
        content: what the values of a row are.
        buffered: the rows that a new copy would hold.
        limits: the owner's.
        elapsed_s: now, by the device's own count of time.
        now_s: Unix seconds, for the record.

    Raises:
        NotReadyError: fewer than `minimum_windows`, and no copy.
        StorageError: the disk refuses a first copy, or one for other columns. Where only a renewal fails the old one stays in use.
    """
    last = newest_snapshot(db)
    known = _known(db, content.columns)
    serials = _serials(buffered, known, last.end)
    new = int(np.count_nonzero(serials >= last.end))
    enough = len(known) == 0 or new >= limits.snapshot_windows
    is_due = not last.number or (enough and elapsed_s - last.began_s >= limits.snapshot_every_s)
    rows = _read(folder, last) if last.content == str(content) else None
    if rows is not None and not is_due:
        return rows
    if len(buffered) < limits.minimum_windows:
        if rows is not None:
            return rows
        raise NotReadyError(
            f"{len(buffered)} windows are buffered; this device answers from {limits.minimum_windows} or more (privacy.minimum_windows)"
        )
    if last.content == str(content) and rows is None and not is_due:
        _log.warning(
            "snapshot_lost number=%d; another copy takes its place, on the same allowance", last.number
        )
    try:
        sha256 = _write(folder, buffered)
    except StorageError as error:
        if rows is None:
            raise
        _log.warning("snapshot_not_renewed error=%s", error)
        return rows
    number = last.number + 1
    db.execute(
        "INSERT INTO snapshots (number, allowance, content, sha256, rows, end, at, elapsed_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (number, number if is_due else last.allowance, str(content), sha256, len(buffered), last.end + new, now_s, elapsed_s),
    )  # fmt: skip
    records = np.empty(len(buffered), _KNOWN)
    records["machine_s"], records["wall_s"], records["serial"] = buffered.machine_s, buffered.wall_s, serials
    db.execute("REPLACE INTO windows (columns, known) VALUES (?, ?)", (content.columns, records.tobytes()))
    return buffered


def remove_others(folder: Path, kept: Snapshot) -> None:
    """Remove copies that are no longer used; while the account is being written, so that no other learner is about to use one."""
    for path in folder.glob("*"):
        if path.name != _name(kept.sha256):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("old_snapshot_stays path=%s error=%s", path, error)


def new_share(db: sqlite3.Connection, present: Snapshot) -> Callable[[int], float]:
    """Given how many windows had been seen when an older snapshot was taken: the share of the present one's that are new since; 0 without one."""
    serials = np.sort(_known(db, present.content.partition(":")[0])["serial"])
    count = max(1, len(serials))
    return lambda end: (len(serials) - int(np.searchsorted(serials, end))) / count


def _serials(buffered: BufferedRows, known: NDArray[np.void], end: int) -> NDArray[np.int64]:
    """The place of each buffered row: known ones keep theirs; of the others those behind the last known one are new, from `end` on.

    A row that is not known and lies before a known one has been in an older snapshot, or came to lie there later: it is not new.
    """
    places = {(m, w): s for m, w, s in known.tolist()}
    found = [
        places.get(times) for times in zip(buffered.machine_s.tolist(), buffered.wall_s.tolist(), strict=True)
    ]
    last = max((i for i, serial in enumerate(found) if serial is not None), default=-1)
    serials = np.array([-1 if serial is None else serial for serial in found], np.int64)
    serials[last + 1 :] = end + np.arange(len(serials) - last - 1)
    return serials


def _known(db: sqlite3.Connection, columns: str) -> NDArray[np.void]:
    found = db.execute("SELECT known FROM windows WHERE columns = ?", (columns,)).fetchone()
    return np.frombuffer(found[0] if found else b"", _KNOWN)


def _name(sha256: str) -> str:
    return f"snapshot-{sha256[:32]}.rows"


def _write(folder: Path, rows: BufferedRows) -> str:
    content = b"".join(
        (
            _HEAD.pack(_MAGIC, *rows.rows.shape),
            rows.machine_s.astype("<f8").tobytes(),
            rows.wall_s.astype("<f8").tobytes(),
            rows.rows.astype("<f4").tobytes(),
        )
    )
    sha256 = hashlib.sha256(content).hexdigest()
    write_durably(private_directory(folder) / _name(sha256), content, mode=0o600)
    return sha256


def _read(folder: Path, snapshot: Snapshot) -> BufferedRows | None:
    """The copy, or None where it is gone or is not what was written."""
    try:
        content = (folder / _name(snapshot.sha256)).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != snapshot.sha256:
        return None
    _, count, features = _HEAD.unpack_from(content)
    times_at, rows_at = _HEAD.size + 8 * count, _HEAD.size + 16 * count
    return BufferedRows(
        machine_s=np.frombuffer(content, "<f8", count, _HEAD.size).astype(np.float64),
        wall_s=np.frombuffer(content, "<f8", count, times_at).astype(np.float64),
        rows=np.frombuffer(content, "<f4", count * features, rows_at)
        .astype(np.float32)
        .reshape(count, features),
    )
