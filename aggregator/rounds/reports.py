"""Who did what in one round, the sum that came of it, and the two ways in which a round ends without one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aggregator.errors import RoundError
from protocol.names import DeviceId

__all__ = ["CohortReport", "CohortSum", "QuorumMissedError", "Refusal", "RoundCanceledError"]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A device whose answer was not taken, and why, in words for the operator."""

    device: DeviceId
    reason: str


@dataclass(frozen=True, kw_only=True)
class CohortReport:
    """Who did what in one round.

    `participants` are in the sum. `refused` answered something that was not admitted, or reported a failure. `lost` did
    not answer by the deadline or went offline. `spared` were asked but not waited for, as enough others had answered.
    `seconds` is the round's wall time; `seconds_in_training` the largest figure of the participants.
    """

    participants: tuple[DeviceId, ...] = ()
    refused: tuple[Refusal, ...] = ()
    lost: tuple[DeviceId, ...] = ()
    spared: tuple[DeviceId, ...] = ()
    seconds: float = 0.0
    seconds_in_training: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CohortSum(CohortReport):
    """The sum over `participants`, float64, in the question's answer layout: the only thing a server step sees."""

    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


class QuorumMissedError(RoundError):
    """Fewer admitted answers than the quorum; `report` names who answered, was refused and was lost."""

    def __init__(self, message: str, report: CohortReport) -> None:
        super().__init__(message)
        self.report = report


class RoundCanceledError(RoundError):
    """The round was asked to stop before it had enough answers; `report` says how far it was."""

    def __init__(self, message: str, report: CohortReport) -> None:
        super().__init__(message)
        self.report = report
