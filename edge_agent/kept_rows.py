"""Which standardised rows may be learnt from, and which wait for a person's word.

Windows of an alarm, from those that built it up to those that closed it, and windows of drift that nobody has looked
into, must not become normal by themselves: a fault that lasts would teach every device to be silent about it. They go
to a store of their own, bounded like the buffer, with the wall's time; a person who calls them normal
(`accept-as-normal`) moves them into the buffer.

::

    row ─► over the threshold? ─► held for as long as it may build an alarm up ─┬─► buffer/     trained on, new normal
       └─► alarm or drift ──────► set_aside/ ──── accepted ─────────────────────┘

Invariants: a row is in one store at most; rows of the buffer keep the order in which they came to it; what may be
learnt is never decided by the learner.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.commissioning import GATHERED_BYTES, StandardisedRow
from edge_agent.sample_buffer import BufferedRows, SampleBuffer
from edge_agent.settings import BufferSettings, StatePaths
from models.detection.profile import Periods
from protocol.manifest import FeatureSpec
from runtime.errors import StorageError

__all__ = ["Cycles", "KeptRows", "RowStores", "open_stores"]

log = logging.getLogger(__name__)

Float = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RowStores:
    """Where rows lie: those that may be learnt, those that wait for a word, and raw ones of a commissioning under way."""

    buffer: SampleBuffer
    set_aside: SampleBuffer
    gathered: SampleBuffer

    def flush(self) -> None:
        """Hand rows to the kernel; raises StorageError where the disk refuses."""
        self.buffer.flush()
        self.set_aside.flush()

    def close(self) -> None:
        """Flush what the disk takes."""
        for store in (self.buffer, self.set_aside, self.gathered):
            store.close()


def open_stores(paths: StatePaths, columns: FeatureSpec, limits: BufferSettings) -> RowStores:
    """Open or create all three; one whose disk refuses keeps no rows."""
    return RowStores(
        buffer=SampleBuffer(paths.buffer, columns, limits.maximum_bytes),
        set_aside=SampleBuffer(paths.set_aside, columns, limits.set_aside_bytes),
        gathered=SampleBuffer(paths.commissioning, columns, 2 * GATHERED_BYTES),
    )


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """Sums of whole `periods`, one for each length asked for, and `rows` from all over them, oldest first."""

    periods: tuple[Periods, ...]
    rows: BufferedRows


class KeptRows:
    """Sorts rows into the stores.

    Args:
        stores: of this device.
        depth: windows among which an alarm may have begun before it opens.
        accepting_until_s: an acceptance that the power cut short, Unix seconds; 0: none.

    Attributes:
        depth: as above; another judge may need another.
        is_accepting: the disk refused an acceptance, and the next start has to finish it.
    """

    def __init__(self, stores: RowStores, *, depth: int, accepting_until_s: float) -> None:
        self._stores = stores
        self.depth = depth
        self._held: deque[tuple[StandardisedRow, bool]] = deque()
        self._held_over = 0
        self.is_accepting = False
        if accepting_until_s:
            self.accept(accepting_until_s)  # the power went between the word and the deed

    @property
    def set_aside(self) -> int:
        """Rows that wait for somebody to say whether they are normal."""
        return len(self._stores.set_aside)

    @property
    def learnable(self) -> int:
        """Rows that may be learnt."""
        return len(self._stores.buffer)

    def keep(self, row: StandardisedRow, *, is_over: bool, is_suspect: bool) -> None:
        """Keep one row.

        Args:
            row: standardised.
            is_over: its score is one that may be the beginning of an alarm.
            is_suspect: an alarm is open, or drift is under investigation.
        """
        if is_suspect:
            self.suspect_held()
            self._append(self._stores.set_aside, row)
        elif self._held or is_over:
            self._held.append((row, is_over))
            self._held_over += is_over
            while self._held and (len(self._held) > self.depth or not self._held_over):
                held, was_over = self._held.popleft()
                self._held_over -= was_over
                self._append(self._stores.buffer, held)
        else:
            self._append(self._stores.buffer, row)

    def suspect_held(self) -> None:
        """An alarm is open: the windows over the threshold before it belong to it."""
        for held, _ in self._held:
            self._append(self._stores.set_aside, held)
        self._held.clear()
        self._held_over = 0

    def accept(self, until_s: float) -> int:
        """Rows up to `until_s` (Unix seconds) are normal; returns how many that were set aside may be learnt now."""
        self.is_accepting = False
        waiting = self._stores.set_aside.newest()
        # A row that such an acceptance had written again, and not removed yet, is there twice.
        waiting = waiting.where(
            np.isin(np.arange(len(waiting)), np.unique(waiting.wall_s, return_index=True)[1])
        )
        is_meant = waiting.wall_s <= until_s
        if not is_meant.any():
            return 0
        # Those that an acceptance cut short by a power failure moved already are not moved again.
        known = self._stores.buffer.newest(2 * len(waiting)).wall_s
        try:
            for i in np.flatnonzero(is_meant & ~np.isin(waiting.wall_s, known)):
                self._stores.buffer.append(waiting.rows[i], waiting.machine_s[i], waiting.wall_s[i])
            self._stores.buffer.sync()
            self._stores.set_aside.keep_only(waiting.where(~is_meant))
        except StorageError as error:
            log.warning("rows_not_accepted error=%s", error)
            self.is_accepting = True
            return 0
        return int(is_meant.sum())

    def newest(self, count: int) -> BufferedRows:
        """The last rows (≤ count, F) that may be learnt, with their time."""
        return self._stores.buffer.newest(count)

    @property
    def span_s(self) -> float:
        """From the first row that may be learnt to the last, by the machine's clock, which may have begun anew; -inf without any."""
        newest = max(self._stores.buffer.newest(1).machine_s.tolist(), default=float("-inf"))
        return newest - self._stores.buffer.oldest_machine_s()

    def cycles(self, lengths_s: Sequence[float], since_wall_s: float, *, most: int) -> Cycles:
        """What the rows that may be learnt show of cycles of these lengths, on the clock that has run since then.

        Args:
            lengths_s: seconds of the machine's clock.
            since_wall_s: Unix seconds; rows from before are of another clock, or of another course of the day.
            most: rows (≤ most, F), evenly spread over all of these, are given back beside the sums.
        """
        latest = self._stores.buffer.newest(1)
        if not len(latest):
            return Cycles(periods=(), rows=latest)
        newest_s = float(max(part.machine_s.max() for part in self._of_this_clock(since_wall_s, latest)))
        periods = tuple(Periods(length, newest_s, latest.rows.shape[1]) for length in lengths_s)
        every = 1 + len(self._stores.buffer) // most
        parts = []
        for part in self._of_this_clock(since_wall_s, latest):
            for one in periods:
                one.add(part.rows, part.machine_s)
            parts.append(part.where(np.arange(len(part)) % every == 0))
        return Cycles(
            periods=periods,
            rows=BufferedRows(
                rows=np.concatenate([part.rows for part in parts[::-1]]),
                machine_s=np.concatenate([part.machine_s for part in parts[::-1]]),
                wall_s=np.concatenate([part.wall_s for part in parts[::-1]]),
            ),
        )

    def _of_this_clock(self, since_wall_s: float, latest: BufferedRows) -> Iterator[BufferedRows]:
        """Segments, the newest first; the latest row is of this clock in any case."""
        is_any = False
        for part in self._stores.buffer.parts():
            if len(meant := part.where((part.wall_s >= since_wall_s) & np.isfinite(part.machine_s))):
                is_any = True
                yield meant
        if not is_any:
            yield latest

    def restart(self, rows: list[StandardisedRow]) -> None:
        """Forget every row, because their scale is no more, and begin with these."""
        self._held.clear()
        self._held_over = 0
        self._stores.buffer.clear()
        self._stores.set_aside.clear()
        for row in rows:
            self._append(self._stores.buffer, row)
        # Whoever gathered these forgets them next.
        with contextlib.suppress(StorageError):
            self._stores.buffer.sync()

    def flush(self) -> None:
        """Hand rows to the kernel; raises StorageError where the disk refuses."""
        self._stores.flush()

    def _append(self, store: SampleBuffer, row: StandardisedRow) -> None:
        # A full disk costs rows, never a judgement; the loop's own flush tells people.
        try:  # noqa: SIM105 - contextlib.suppress costs a window as much as all the rest of this
            store.append(*row)
        except StorageError:
            pass
