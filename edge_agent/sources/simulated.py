"""A source that is a simulated rotating machine, steered through its control file.

The physics is `rotating_machine`; this module paces it and applies what the world does to it.
"""

from __future__ import annotations

from typing import Final

from edge_agent.errors import SourceError
from edge_agent.sources.control_file import ControlFile
from edge_agent.sources.pacing import Pace
from edge_agent.sources.port import SourceWindow
from edge_agent.sources.rotating_machine import PROFILES, MachineCondition, RotatingMachine
from edge_agent.sources.settings import SimulatedSettings
from models.features import vibration_spec

__all__ = ["SimulatedSource"]


class SimulatedSource:
    """Implements `port.Source`; its `spec` is one channel of vibration.

    Raises:
        SourceError: the profile is unknown, or the sampling rate cannot show the casing's resonances.
    """

    def __init__(self, settings: SimulatedSettings) -> None:
        profile = PROFILES.get(settings.profile)
        if profile is None:
            raise SourceError(
                f"source.profile {settings.profile!r} is unknown; choose one of {sorted(PROFILES)}"
            )
        try:
            self._machine = RotatingMachine(
                profile,
                seed=settings.seed,
                sample_rate_hz=settings.sample_rate_hz,
                window_samples=settings.window_samples,
            )
        except ValueError as error:
            raise SourceError(f"source: {error}") from None
        self.spec: Final = vibration_spec(settings.sample_rate_hz, settings.window_samples)
        self._pace = Pace(period_s=settings.snapshot_every_s, speed=settings.speed)
        self._period_s = settings.snapshot_every_s
        self._condition = MachineCondition()
        control = settings.control_file
        self._control = ControlFile(control, MachineCondition) if control is not None else None
        self._index = 0

    @property
    def next_due_s(self) -> float:
        """See `port.Source`."""
        return self._pace.next_due_s

    def next_window(self, now: float) -> SourceWindow | None:
        """See `port.Source`."""
        if not self._pace.take(now):
            return None
        if self._control is not None:
            self._condition = self._control.poll() or self._condition
        machine_s = self._index * self._period_s
        samples = self._machine.window(self._condition, machine_s)
        window = SourceWindow(samples=samples, observed_at_s=machine_s, index=self._index)
        self._index += 1
        return window

    def close(self) -> None:
        """Nothing is held open."""
