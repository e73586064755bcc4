"""Who holds rounds up is left out of the next draws for a while: the memory of silent devices.

A device is silent where no answer to a stage came in time. Where nobody was heard it was our own road and nobody's
silence. Two more are left out only when it happens twice in a row: who was lost with more than half of the cohort, because
that may be a road, and who fails by name where others have already paid (at its masked input, or later), because its
neighbours can bring an honest device there by what they send it.

Read from the runs' own records, so it survives a kill and goes from run to run. A place in a sum wipes it out. After the
first silence a device that joins anew (its learner was restarted, its network is back) is asked at once; from the second in
a row on only time helps, or one that comes and goes would hold up every round. Nothing here is a punishment: a device that is
left out stays in the session, and is asked again after the pause.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from aggregator.rounds.runs import RefusedDevice, RoundRecord
from protocol.names import DeviceId
from protocol.sum_terms import SumStage

__all__ = ["FIRST_PAUSE_S", "LONGEST_PAUSE_S", "Silence", "SilentDevices"]

FIRST_PAUSE_S: Final = 300.0
"""After the first silence: a few rounds. It doubles with each in a row."""

LONGEST_PAUSE_S: Final = 86_400.0

_CHEAP: Final = frozenset({SumStage.ADVERTISE.value, SumStage.SHARE.value})
"""Stages before the masked input: who refuses there costs nobody anything, and may have been asked what its policy forbids."""


class _Report(Protocol):
    """What a round says of its devices: `reports.CohortReport`, and the record that is kept of it."""

    @property
    def participants(self) -> tuple[DeviceId, ...]: ...
    @property
    def refused(self) -> tuple[RefusedDevice, ...]: ...
    @property
    def lost(self) -> tuple[DeviceId, ...]: ...
    @property
    def stages(self) -> Mapping[DeviceId, str]: ...


@dataclass(frozen=True, kw_only=True)
class Silence:
    """One device's: at which `stage` it failed last, how often in a row (a doubtful one counts half), when (Unix seconds).

    `joining` is the stamp of the session that it was in, None where the service was started since.
    """

    stage: str
    strikes: float
    at: float
    joining: str | None

    @property
    def pause_s(self) -> float:
        """How long it is left out; 0 for a first one that is doubtful."""
        if self.strikes < 1:
            return 0.0
        return float(min(FIRST_PAUSE_S * 2.0 ** (math.floor(self.strikes) - 1), LONGEST_PAUSE_S))

    def is_over(self, joining: str | None, now: float) -> bool:
        """Whether the device, which is there under `joining`, may be asked again at `now`.

        A silence in the future was noted by a clock that was wrong, and lasts no longer than one of now would.
        """
        is_another = self.joining is not None and joining != self.joining
        return abs(now - self.at) >= self.pause_s or (is_another and self.strikes < 2)

    def words(self, device: DeviceId) -> str:
        """In one sentence, for people."""
        until = datetime.fromtimestamp(self.at + self.pause_s, UTC)
        return f"{device} did not answer {self.stage} and is left out until {until:%Y-%m-%d %H:%M} UTC, or until it joins anew"


class SilentDevices:
    """The memory.

    Args:
        records: what is known of earlier rounds, oldest first.
    """

    def __init__(self, records: Iterable[RoundRecord] = ()) -> None:
        self._silences: dict[DeviceId, Silence] = {}
        for record in records:
            self.note(record, asked=record.asked, at=record.started_at + record.seconds)

    def note(
        self, report: _Report, *, asked: int, at: float, joinings: Mapping[DeviceId, str] | None = None
    ) -> None:
        """Remember what a round of `asked` devices says, which ended at Unix second `at`; `joinings` as of now."""
        silent = report.lost if len(report.lost) < asked else ()
        strikes = dict.fromkeys(silent, 1.0 if 2 * len(silent) <= asked else 0.5)
        for refused in report.refused:
            if (report.stages.get(refused.device) or SumStage.ADVERTISE.value) not in _CHEAP:
                strikes.setdefault(refused.device, 0.5)
        for device in report.participants:
            self._silences.pop(device, None)
        for device, weight in strikes.items():
            before = self._silences.get(device)
            self._silences[device] = Silence(
                stage=report.stages.get(device, "a question"),
                strikes=weight + (before.strikes if before else 0.0),
                at=at,
                joining=(joinings or {}).get(device),
            )

    def left_out(self, joinings: Mapping[DeviceId, str], now: float) -> dict[DeviceId, Silence]:
        """Who of those that are there (device → stamp of its joining) shall not be asked at Unix second `now`."""
        return {
            device: silence
            for device, joining in joinings.items()
            if (silence := self._silences.get(device)) is not None and not silence.is_over(joining, now)
        }
