"""SIGTERM and SIGINT as a plain flag that the loop looks at."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Protocol

__all__ = ["StopSignals"]


class _Stoppable(Protocol):
    def stop(self) -> None: ...


class StopSignals:
    """SIGTERM and SIGINT stop the agent; one that comes while it is being built stops it as soon as it stands."""

    def __init__(self) -> None:
        self._agent: _Stoppable | None = None
        self._is_asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def hand_to(self, agent: _Stoppable) -> None:
        """It stands: stop it, if that was asked meanwhile, or whenever it is."""
        self._agent = agent
        if self._is_asked:
            agent.stop()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        # Plain flags: the loop looks at them at least every tick, and a handler may take no lock.
        self._is_asked = True
        if self._agent is not None:
            self._agent.stop()
