"""The drift monitor of one device, with the context that its reference's rows were seen in: a pair, on disk as well."""

from __future__ import annotations

from edge_agent.context_file import fingerprint_of_context
from edge_agent.detection_memory import DetectionMemory
from edge_agent.fitting import Fit, fit_monitor
from edge_agent.judges import Judge
from models.drift.monitor import DriftMonitor, DriftPhase, DriftSettings
from models.sensors import SensorView
from protocol.messages.payloads import SensorShape

__all__ = ["DriftWatch"]


class DriftWatch:
    """One thread.

    Args:
        sensors: what a row speaks of.
        settings: how sensitive to be.
        memory: what survives a restart.

    Attributes:
        settings: how sensitive it is.
        monitor: None while there is no reference.
    """

    def __init__(self, sensors: SensorView, settings: DriftSettings, memory: DetectionMemory) -> None:
        self._sensors, self.settings, self._memory = sensors, settings, memory
        self.monitor: DriftMonitor | None
        self.monitor, self._context = memory.load_drift(sensors.watched, settings)

    @property
    def state(self) -> tuple[DriftPhase, int]:
        """Where the machine is, and how many changes were found."""
        monitor = self.monitor
        return (DriftPhase.HOME, 0) if monitor is None else (monitor.phase, monitor.reports)

    @property
    def is_away(self) -> bool:
        """Is the machine not where the reference was taken?"""
        return self.monitor is not None and self.monitor.is_away

    @property
    def is_moving(self) -> bool:
        """Has it left, and not come to rest yet? What it is at now is no place to compare with."""
        return self.state[0] is DriftPhase.DRIFTING

    @property
    def is_resting(self) -> bool:
        """Has it come to rest elsewhere?"""
        return self.state[0] is DriftPhase.SETTLED

    @property
    def score(self) -> float:
        """Largest statistic ÷ threshold over all detectors; 0 without a reference."""
        return self.monitor.verdict().score if self.monitor is not None else 0.0

    @property
    def severity(self) -> float | None:
        """How far from its reference the machine has come to rest, in standard deviations; None where it has not."""
        return self.monitor.verdict().severity if self.monitor is not None else None

    def shapes(self) -> tuple[SensorShape, ...]:
        """PSI and KS of the sensors whose distribution differs most; empty without a reference."""
        return self.monitor.shapes() if self.monitor is not None else ()

    def is_pair(self, judge: Judge) -> bool:
        """Is there a reference, of rows seen as this judge sees them?"""
        return self.monitor is not None and self._context == fingerprint_of_context(judge.context)

    def refer_to(self, fit: Fit) -> DriftMonitor | None:
        """A new reference, durably; None where the rows of the fit are too few: the one so far, if any, stays."""
        monitor = fit.monitor or fit_monitor(self._sensors, fit, self.settings)
        if monitor is not None:
            self.monitor, self._context = monitor, fingerprint_of_context(fit.judge.context)
            self.save()
        return monitor

    def forget(self) -> None:
        """The reference means nothing any more."""
        self.monitor, self._context = None, ""

    def save(self) -> None:
        """Let reference and state survive a restart."""
        if self.monitor is not None:
            self._memory.save_drift(self.monitor, self._context)
