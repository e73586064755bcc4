"""Who did what in one round (`CohortTally` while it lasts), the sum that came of it, and the two ways in which it ends without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import AnswerRefusedError, RoundError
from aggregator.rounds.cohort_link import Content, DeviceReply
from aggregator.rounds.runs import GroupRecord, RefusedDevice
from protocol.names import DeviceId
from protocol.secure_sum.errors import SecureSumError

__all__ = [
    "CohortReport",
    "CohortSum",
    "CohortTally",
    "GroupSum",
    "QuorumMissedError",
    "RoundCanceledError",
]


@dataclass(frozen=True, kw_only=True)
class CohortReport:
    """Who did what in one round.

    `participants` are in the sum. `refused` answered something that was not admitted, or reported a failure. `lost` did
    not answer by the deadline or went offline. `spared` were asked but not waited for, as enough others had answered.
    `stages` says at which stage each of the refused and the lost failed. `seconds` is the round's wall time.
    `groups` are those of a round that was asked in groups.
    """

    participants: tuple[DeviceId, ...] = ()
    refused: tuple[RefusedDevice, ...] = ()
    lost: tuple[DeviceId, ...] = ()
    spared: tuple[DeviceId, ...] = ()
    stages: Mapping[DeviceId, str] = field(default_factory=dict)
    seconds: float = 0.0
    groups: tuple[GroupRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GroupSum:
    """The sum of one group over exactly `participants`, float64 (layout.total,)."""

    participants: tuple[DeviceId, ...]
    total: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CohortSum(CohortReport):
    """The sum over `participants`, float64, in the question's answer layout: the only thing a server step sees.

    Of several groups it is what their sums say together (`aggregator.rounds.combining`); `sums` are theirs, of those that are used.
    """

    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    sums: tuple[GroupSum, ...] = ()


class CohortTally:
    """The fate of each device of a round; the first reason that takes a device out is the one that is told."""

    def __init__(self, devices: Iterable[DeviceId]) -> None:
        self._devices = tuple(devices)
        self._refused: dict[DeviceId, str] = {}
        self._lost: list[DeviceId] = []
        self._spared: list[DeviceId] = []
        self._stage, self._stages = "", dict[DeviceId, str]()

    def begin(self, stage: str) -> None:
        """From now on devices fail at `stage`."""
        self._stage = stage

    def take(self, reply: DeviceReply[Content], accept: Callable[[DeviceId, Content], None]) -> bool:
        """Hand a reply's content to `accept`, which may refuse it (AnswerRefusedError, SecureSumError); whether it was taken."""
        if reply.content is None:
            if reply.lost:
                self.lose([reply.device])
            else:
                self._refuse(reply.device, reply.failure)
            return False
        try:
            accept(reply.device, reply.content)
        except (AnswerRefusedError, SecureSumError) as refusal:
            # Of a protocol's many refusals the name says most.
            name = f"{type(refusal).__name__}: " if isinstance(refusal, SecureSumError) else ""
            self._refuse(reply.device, f"{name}{refusal}")
            return False
        return True

    def lose(self, devices: Iterable[DeviceId]) -> None:
        """Nothing was heard of these in time."""
        new = [device for device in devices if device not in self._lost]
        self._lost.extend(new)
        for device in new:
            self._stages.setdefault(device, self._stage)

    def spare(self, devices: Iterable[DeviceId]) -> None:
        """These were not waited for."""
        self._spared.extend(device for device in devices if device not in self._spared)

    def _refuse(self, device: DeviceId, reason: str) -> None:
        self._refused.setdefault(device, reason)
        self._stages.setdefault(device, self._stage)

    def report(
        self, participants: Iterable[DeviceId], seconds: float, *, groups: tuple[GroupRecord, ...] = ()
    ) -> CohortReport:
        """The round's report; whoever is in the sum is a participant whatever happened later."""
        inside = tuple(participants)
        refused = {d: r for d, r in self._refused.items() if d not in inside}
        spared = tuple(d for d in self._spared if d not in inside and d not in refused)
        heard = {*inside, *refused, *spared}
        lost = tuple(device for device in self._devices if device not in heard and device in self._lost)
        return CohortReport(
            participants=inside,
            refused=tuple(RefusedDevice(device=device, reason=reason) for device, reason in refused.items()),
            lost=lost,
            spared=spared,
            stages={device: self._stages[device] for device in (*refused, *lost)},
            seconds=seconds,
            groups=groups,
        )


class _EndedRoundError(RoundError):
    """A round that ended without a sum; `report` says how far it was."""

    def __init__(self, message: str, report: CohortReport) -> None:
        super().__init__(message)
        self.report = report


class QuorumMissedError(_EndedRoundError):
    """Fewer admitted answers than the quorum; `report` names who answered, was refused and was lost."""


class RoundCanceledError(_EndedRoundError):
    """The round was asked to stop before it had enough answers."""
