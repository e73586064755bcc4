"""A driver in a thread of its own, so that one that blocks holds up nothing but itself.

The loop takes windows that are ready and never waits for one. A call that takes long is named; one that takes too long is
given up: its thread is left alone, its instance is told to close, and the driver is opened anew. What a driver raises, whatever
it is, is a `SourceError`. Threads cannot be ended from without, so that few are left behind: then the process says goodbye and
its supervisor starts another one.

::

    driver thread:  open ─► next_due_s, next_window ─► [ready windows, bounded] ─► the loop: next_window
                      ▲                 └─ raises ─► SourceError, asked again in 5 s, opened anew after a minute of that
                      └── given up: another thread, at most MOST_ABANDONED beside it, else RestartNeededError

Invariants: a window that is merely late is not lost; windows that a new instance counts from nought go on where the one before
stopped, in `index` and in the machine's time. The columns of a driver are remembered: one that does not open at a start of the
agent keeps nothing but its windows from being there, and one that opens with other columns later has the process started anew.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from edge_agent.errors import RestartNeededError, SourceError, SourceSilentError
from edge_agent.sources.factory import open_source
from edge_agent.sources.port import Source, SourceWindow
from edge_agent.sources.settings import PluginSettings, ReplaySettings, SimulatedSettings, SourceSettings
from protocol.manifest import FeatureSpec
from runtime.durable_files import read_bytes, write_durably
from runtime.errors import StorageError

__all__ = ["SourceHost", "open_for_loop"]

log = logging.getLogger(__name__)

SAY_AFTER_S: Final = 10.0
"""A call that takes longer is said; one that is given up within 20 s is said after half of that."""
MOST_ABANDONED: Final = 3
"""Threads of drivers that never came back; each may hold a device file, a lock and some 100 KB."""
LONGEST_PATIENCE_S: Final = 600.0
PATIENCE_FACTOR: Final = 3.0
"""A driver that has taken a minute before is not blocked after two."""
RETRY_S: Final = 5.0
REOPEN_AFTER_FAILURES: Final = 12
"""A minute of nothing else: a plug that was pulled and pushed in again needs a new handle."""
CLOSE_WAIT_S: Final = 2.0
_OURS_ANSWER_WITHIN_S: Final = 60.0
"""Of a driver of ours: each of its requests has a shorter patience of its own."""
_MOST_READY: Final = 32
_READY_BYTES: Final = 4 * 1024 * 1024
_POLL_S: Final = 0.01
"""Before a driver that says that a window is due, and gives none, is asked again."""
_LOOK_AGAIN_S: Final = 1.0
_LATER_S: Final = 1e18
"""When the next window is due, for the loop: nobody knows, and it will be woken."""


def open_for_loop(
    settings: SourceSettings, memory: Path, clock: Callable[[], float], wake: Callable[[], None]
) -> Source:
    """The source of the settings, such that the loop may call it: ours never block, whatever else there is is hosted.

    Raises:
        SourceError: it does not open; for a driver, see `SourceHost`.
    """
    if isinstance(settings, ReplaySettings | SimulatedSettings):
        return open_source(settings)
    patience_s = settings.answers_within_s if isinstance(settings, PluginSettings) else _OURS_ANSWER_WITHIN_S
    return SourceHost(
        partial(open_source, settings),
        name=settings.where,
        answers_within_s=patience_s,
        memory=memory,
        clock=clock,
        wake=wake,
    )


class _RememberedSource(Struct, frozen=True, kw_only=True):
    """Which driver had which columns."""

    factory: str
    spec: FeatureSpec


class SourceHost:
    """Implements `edge_agent.sources.port.Source` around a driver; the loop's thread calls it, and never waits."""

    def __init__(
        self,
        open_driver: Callable[[], Source],
        *,
        name: str,
        answers_within_s: float,
        memory: Path,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        """Open the driver, and wait for that a little; only a driver that was never seen before is waited for longer.

        Args:
            open_driver: makes an instance; called in its thread, again for each new one.
            name: in messages.
            answers_within_s: a call that takes longer, and three times as long as any before, is given up.
            memory: file of the remembered columns.
            clock: monotonic seconds.
            wake: called when a window is ready.

        Raises:
            SourceError: it does not open, and was never seen before, so that nobody knows its columns.
        """
        self._open, self._name, self._clock, self._wake = open_driver, name, clock, wake
        self._base_patience_s = self._patience_s = answers_within_s
        self._say_after_s = min(SAY_AFTER_S, answers_within_s / 2)
        self._memory = memory
        self._abandoned: list[_Reader] = []
        self._silent_since_s: float | None = None
        remembered = _recall(memory, name)
        self._reader = _Reader(self._open, clock, wake, None)
        self._reader.opened.wait(answers_within_s if remembered is None else self._say_after_s)
        found = self._reader.spec
        spec = found or remembered
        if spec is None:
            self.close()
            raise SourceError(
                self._reader.failure
                or f"the source {name} has not answered for {answers_within_s:.0f} s while it was opened"
            )
        self.spec: Final = spec
        if found is not None and found != remembered:
            self._remember(found)

    @property
    def next_due_s(self) -> float:
        """See `Source`: at once where a window is ready, else when the loop is woken."""
        if self._reader.ready:
            return -math.inf
        return math.inf if self._reader.has_ended else _LATER_S

    def next_window(self, now: float) -> SourceWindow | None:
        """See `Source`.

        Raises:
            SourceSilentError: the driver is in a call for long; told in the log by this class.
            RestartNeededError: too many instances never came back, or its columns are others now.
        """
        reader = self._reader
        if reader.ready:
            item = reader.ready.popleft()
            reader.room.set()
            if isinstance(item, SourceWindow):
                return item
            raise SourceError(item)
        self._watch(now)
        return None

    def close(self) -> None:
        """See `Source`; a driver that blocks is left behind."""
        self._reader.stop()
        self._reader.thread.join(CLOSE_WAIT_S)
        if self._reader.thread.is_alive():
            log.warning("source_not_closed source=%s: it is still in a call", self._name)

    def _watch(self, now: float) -> None:
        reader = self._reader
        if reader.spec not in {None, self.spec}:
            self._remember(reader.spec or self.spec)
            raise RestartNeededError(
                f"the source {self._name} delivers other columns than when the agent started"
            )
        asked_s = reader.asked_s
        silent_s = 0.0 if asked_s is None else now - asked_s
        if silent_s < self._say_after_s and (reader.answers or self._silent_since_s is None):
            self._silent_since_s = None
            return
        if self._silent_since_s is None:
            self._silent_since_s = now - silent_s
            log.warning("source_silent source=%s silent_s=%.0f", self._name, silent_s)
        if silent_s >= max(self._patience_s, PATIENCE_FACTOR * reader.longest_s):
            self._give_up(now, silent_s)
        raise SourceSilentError(
            f"the source {self._name} has not answered for {now - self._silent_since_s:.0f} s"
        )

    def _give_up(self, now: float, silent_s: float) -> None:
        given_up = self._reader
        given_up.stop()
        self._abandoned = [reader for reader in (*self._abandoned, given_up) if reader.thread.is_alive()]
        if len(self._abandoned) > MOST_ABANDONED:
            raise RestartNeededError(
                f"the source {self._name} has not answered for {now - (self._silent_since_s or now):.0f} s,"
                f" and {len(self._abandoned)} instances of it never came back"
            )
        # One that never answered may be slow from the beginning: the next one is given more time.
        has_answered = given_up.answers > 0
        self._patience_s = (
            self._base_patience_s if has_answered else min(2 * self._patience_s, LONGEST_PATIENCE_S)
        )
        log.warning(
            "source_restarted source=%s silent_s=%.0f left_behind=%d",
            self._name,
            silent_s,
            len(self._abandoned),
        )
        self._reader = _Reader(self._open, self._clock, self._wake, given_up)

    def _remember(self, spec: FeatureSpec) -> None:
        try:
            write_durably(self._memory, msgspec.json.encode(_RememberedSource(factory=self._name, spec=spec)))
        except StorageError as error:
            log.warning("columns_not_remembered error=%s", error)


class _Reader:
    """One instance of a driver, and its thread.

    Attributes:
        ready: windows, and what went wrong instead of one; the loop takes from the left.
        room: set by the loop when it took one.
        opened: set once it opened, or could not.
        asked_s: when the call began that it is in, on the host's clock; None between calls.
        answers: calls that came to an end, in a window, in nothing or in a failure.
        longest_s: the longest of them that did not fail.
        spec: its columns, once it is open.
        failure: why it did not open.
        has_ended: it says that no window will come any more.
    """

    def __init__(
        self,
        open_driver: Callable[[], Source],
        clock: Callable[[], float],
        wake: Callable[[], None],
        before: _Reader | None,
    ) -> None:
        self._open, self._clock, self._wake = open_driver, clock, wake
        self._before = before
        self.ready: deque[SourceWindow | str] = deque()
        self.room, self.opened, self._stopping = threading.Event(), threading.Event(), threading.Event()
        self.asked_s: float | None = clock()
        self.answers, self.longest_s = 0, 0.0
        self.spec: FeatureSpec | None = None
        self.failure = ""
        self.has_ended = False
        self.source: Source | None = None
        self.index: int = before.index if before is not None else -1
        self.machine_s: float = before.machine_s if before is not None else -math.inf
        self._shift: tuple[int, float] | None = None if before is not None else (0, 0.0)
        # A daemon: one that is blocked must not keep the process from ending.
        self.thread = threading.Thread(target=self._work, name="source", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Read no more; what is in a call ends when the call does."""
        self._stopping.set()
        self.room.set()

    def _work(self) -> None:
        self._let_go(self._before)
        self._before = None
        failures = 0
        while not self._stopping.is_set():
            pause_s = RETRY_S
            try:
                pause_s = self._turn()
                failures = 0
            except BaseException as error:  # noqa: BLE001 - foreign code: sys.exit in a driver ends no agent
                self._failed(error)
                failures += 1
                if failures % REOPEN_AFTER_FAILURES == 0:
                    self.close()
            self.asked_s = None
            if pause_s > 0:
                self._stopping.wait(pause_s)
        self.close()

    def _turn(self) -> float:
        """Open, or ask once; returns how long to wait before the next turn, seconds."""
        self.asked_s = asked_s = self._clock()
        if self.source is None:
            self.source = self._open()
            self.spec = self.source.spec
            self.opened.set()
            if self._stopping.is_set():
                return 0.0
        due_s = self.source.next_due_s
        self.has_ended = due_s == math.inf
        if due_s > asked_s:
            return min(due_s - asked_s, _LOOK_AGAIN_S)
        window = self.source.next_window(asked_s)
        self.asked_s = None
        self.answers += 1
        self.longest_s = max(self.longest_s, self._clock() - asked_s)
        if window is None:
            return _POLL_S
        self._put(self._continued(window))
        return 0.0

    def _failed(self, error: BaseException) -> None:
        told = str(error) if isinstance(error, SourceError) else f"{type(error).__name__}: {error}"
        self.failure = told
        self.asked_s = None
        self.answers += 1
        self.opened.set()
        if not self.ready:
            self._put(told)

    def _continued(self, window: SourceWindow) -> SourceWindow:
        """The window as one of the same machine: a new instance may count from nought."""
        if self._shift is None:
            behind_s = self.machine_s - window.observed_at_s
            self._shift = (
                self.index + 1 - window.index,
                behind_s if math.isfinite(behind_s) and behind_s > 0 else 0.0,
            )
        index, machine_s = self._shift
        if index or machine_s:
            window = dataclasses.replace(
                window, index=window.index + index, observed_at_s=window.observed_at_s + machine_s
            )
        self.index, self.machine_s = window.index, window.observed_at_s
        return window

    def _put(self, item: SourceWindow | str) -> None:
        most = _MOST_READY
        if not isinstance(item, str):
            most = max(1, min(most, _READY_BYTES // max(1, item.samples.nbytes)))
        while len(self.ready) >= most and not self._stopping.is_set():
            self.room.clear()
            if len(self.ready) >= most:
                self.room.wait(_LOOK_AGAIN_S)
        if self._stopping.is_set():
            return
        self.ready.append(item)
        if len(self.ready) == 1:
            self._wake()

    def _let_go(self, before: _Reader | None) -> None:
        """Close the instance that was given up, which may wake it; in a thread, because that may block as well."""
        if before is not None and before.source is not None:
            closer = threading.Thread(target=before.close, name="source-closer", daemon=True)
            closer.start()
            closer.join(CLOSE_WAIT_S)

    def close(self) -> None:
        """Close the driver; what fails there fails alone."""
        source, self.source = self.source, None
        if source is None:
            return
        try:
            source.close()
        except BaseException as error:  # noqa: BLE001 - as above
            log.warning("source_not_closed error=%s: %s", type(error).__name__, error)


def _recall(memory: Path, name: str) -> FeatureSpec | None:
    try:
        content = read_bytes(memory)
        if content is None:
            return None
        remembered = msgspec.json.decode(content, type=_RememberedSource)
    except (StorageError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        log.warning("columns_forgotten path=%s error=%s", memory, error)
        return None
    return remembered.spec if remembered.factory == name else None
