"""The fence around the loop that detects: what fails in one stage of a turn fails there, is told once, counted, and tried again later.

Expected failures (a sensor, a disk, a road) are told by whoever meets them. Here is the rest: a mistake of ours, a
message that nobody thought of, no memory. A stage that is done by the clock is tried again after growing pauses; one
that is done because something arrived is tried whenever something arrives. It hides nothing: what fails stands in the
problems of this device, and a stage of the clock that does nothing but fail for `GIVE_UP_S` ends the process, so that its
supervisor starts another one with a fresh memory. What arrives never ends it: it would only arrive again.

::

    work() ─┬─ fine ──────► its result (and "recovered", if it had failed)
            └─ Exception ─► once in the log, counted, `otherwise`; pauses of 1 s to 1 min; after 15 minutes: RestartNeededError
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Final, TypeVar

from edge_agent.errors import RestartNeededError
from edge_agent.health import Counters
from runtime.backoff import backoff_s

__all__ = ["GIVE_UP_S", "Fence"]

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
GIVE_UP_S: Final = 900.0
"""Long enough for a full disk that somebody clears, short enough for a watch that has gone wrong in memory."""
_LONGEST: Final = 200


class _Failing:
    """A stage that fails: since when, how often, when it is tried again, and as what."""

    def __init__(self, now_s: float, what: str) -> None:
        self.since_s = self.retry_s = now_s
        self.times, self.what = 0, what


class Fence:
    """Runs stages; one thread.

    Args:
        counters: where failures are counted.
        clock: monotonic seconds.
    """

    def __init__(self, counters: Counters, clock: Callable[[], float]) -> None:
        self._counters = counters
        self._clock = clock
        self._failing: dict[str, _Failing] = {}

    def run(self, stage: str, work: Callable[[], T], otherwise: T) -> T:
        """Do what is due by the clock; `otherwise` where it failed, or failed lately and waits.

        Raises:
            RestartNeededError: it has done nothing but fail for too long, or asks for that itself.
        """
        failing = self._failing.get(stage)
        if failing is not None and self._clock() < failing.retry_s:
            return otherwise
        return self.run_always(stage, work, otherwise)

    def run_always(self, stage: str, work: Callable[[], T], otherwise: T) -> T:
        """As `run`, but without pauses: for windows, each of which is judged or lost."""
        result = self.attempt(stage, work, otherwise)
        self._give_up_if_hopeless(stage)
        return result

    def attempt(self, stage: str, work: Callable[[], T], otherwise: T) -> T:
        """Do what cannot wait, for it will not come again; `otherwise` where it failed.

        Raises:
            RestartNeededError: it asks for that itself.
        """
        try:
            result = work()
        except RestartNeededError:
            raise
        except Exception as error:  # noqa: BLE001 - the very purpose: nothing that a stage meets ends the loop
            self._failed(stage, error)
            return otherwise
        if self._failing and (failing := self._failing.pop(stage, None)) is not None:
            log.warning("stage_recovered stage=%s failures=%d", stage, failing.times)
        return result

    def reason(self, stage: str) -> str:
        """Why a stage fails at present; empty where it does not."""
        failing = self._failing.get(stage)
        return failing.what if failing is not None else ""

    def problems(self) -> list[str]:
        """A sentence for each stage that fails, for people."""
        return [
            f"the agent's {stage} fails ({failing.times} times now): {failing.what}"
            for stage, failing in self._failing.items()
        ]

    def _failed(self, stage: str, error: Exception) -> None:
        now_s = self._clock()
        self._counters.stage_failures += 1
        what = f"{type(error).__name__}: {error}"[:_LONGEST]
        failing = self._failing.get(stage)
        if failing is None:
            failing = self._failing[stage] = _Failing(now_s, what)
            # Where, in one line: the first failure is the one that tells, and a log is not for stacks.
            place = traceback.extract_tb(error.__traceback__)[-1:]
            at = f"{place[0].filename.rpartition('/')[2]}:{place[0].lineno}" if place else "?"
            log.error("stage_failed stage=%s at=%s error=%s", stage, at, what)
        failing.times += 1
        failing.what = what
        failing.retry_s = now_s + backoff_s(
            failing.times, first_s=FIRST_PAUSE_S, maximum_s=LONGEST_PAUSE_S, draw=1.0
        )

    def _give_up_if_hopeless(self, stage: str) -> None:
        failing = self._failing.get(stage)
        if failing is not None and (failed_s := self._clock() - failing.since_s) >= GIVE_UP_S:
            raise RestartNeededError(
                f"the agent's {stage} has failed {failing.times} times in {failed_s:.0f} s, the last time with {failing.what}"
            )
