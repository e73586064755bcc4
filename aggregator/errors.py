"""Everything that can go wrong in the aggregator, grouped by who must act.

::

    AggregatorError
    ├── FlowerServerError            we: the embedded Flower server cannot do its work
    │   ├── FlowerVersionError       the person who installed: another Flower than the one this build was written for
    │   ├── FlowerListenError        the person who configured: address in use, certificate or key unreadable
    │   └── RosterError              the roster given cannot be used: no P-256 key, one key for two devices
    ├── FlowerRunEndedError          we: the Flower run no longer accepts questions; start another one
    └── RoundError                   this round gave nothing; the model is untouched, the next round may work
        ├── AnswerRefusedError       one device: its answer is misshapen, not finite or beyond a limit
        ├── QuorumMissedError        too few devices answered in time
        └── RoundCancelledError      somebody asked for the run to end
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aggregator.rounds.cohort_link import CohortReport

__all__ = [
    "AggregatorError",
    "AnswerRefusedError",
    "FlowerListenError",
    "FlowerRunEndedError",
    "FlowerServerError",
    "FlowerVersionError",
    "QuorumMissedError",
    "RosterError",
    "RoundCancelledError",
    "RoundError",
]


class AggregatorError(Exception):
    """Root of every failure in this package."""


class FlowerServerError(AggregatorError):
    """The embedded Flower server cannot do its work; the message says what to mend."""


class FlowerVersionError(FlowerServerError):
    """The Flower that is installed lacks what the adapter uses; install the version the message names."""


class FlowerListenError(FlowerServerError):
    """The Fleet API cannot listen: the address is taken, or the certificate or key cannot be used."""


class RosterError(FlowerServerError):
    """A device list that cannot become a roster; nothing of it was taken over."""


class FlowerRunEndedError(AggregatorError):
    """The Flower run is finished or its heartbeat ran out; start another one and ask again."""


class RoundError(AggregatorError):
    """A round gave nothing that may be used; the model is as it was."""


class AnswerRefusedError(RoundError):
    """One device's answer is refused; its message is the reason shown to the operator."""


class QuorumMissedError(RoundError):
    """Fewer admitted answers than the quorum; `report` names who answered, was refused and was lost."""

    def __init__(self, message: str, report: CohortReport) -> None:
        super().__init__(message)
        self.report = report


class RoundCancelledError(RoundError):
    """The round was asked to stop before it had enough answers; `report` says how far it was."""

    def __init__(self, message: str, report: CohortReport) -> None:
        super().__init__(message)
        self.report = report
