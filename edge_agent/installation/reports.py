"""Install reports on their way from the worker, who makes them, to the loop, who puts them into the outbox."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Final

from protocol.messages.kinds import InstallStatus
from protocol.messages.payloads import InstallReport

__all__ = ["Reports"]

log: Final = logging.getLogger(__name__)


class Reports:
    """A queue between two threads."""

    def __init__(self) -> None:
        self._waiting: list[InstallReport] = []
        self._lock = threading.Lock()

    def add(self, reports: Iterable[InstallReport]) -> None:
        """Log and keep them."""
        for report in reports:
            log.info(
                "install_step_reported release=%s counter=%d step=%s status=%s reason=%s",
                report.release,
                report.counter,
                report.step.value,
                report.status.value,
                report.reason,
            )
            with self._lock:
                self._waiting.append(report)

    def take(self) -> list[InstallReport]:
        """Those added since the last call, oldest first; of one execution's progress only the newest."""
        with self._lock:
            taken, self._waiting = self._waiting, []
        newest = {report.execution: i for i, report in enumerate(taken)}
        return [
            report
            for i, report in enumerate(taken)
            if report.status is not InstallStatus.IN_PROGRESS or newest[report.execution] == i
        ]
