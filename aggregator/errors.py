"""Everything that can go wrong in the aggregator, grouped by who must act.

::

    AggregatorError
    ├── FleetError                   the fleet, or the road to it
    │   ├── FleetUnreachableError    no connection, no certificate it trusts, or the fleet failed: try again later
    │   └── FleetRefusedError        the fleet answered no (token, conflict, request); trying again will not help
    ├── UntrustedListError           the fleet: its list of releases is signed by no key trusted here; nothing is added to it
    ├── ChampionError                the fleet's release in force cannot be built upon: untrusted, damaged or none there
    ├── UnknownRunError              who asked: no such run or family
    ├── RunConflictError             who asked: the family already trains, or the run has ended
    ├── ExportFailedError            we: the candidate could not be made into a release
    ├── GateRefusedError             who trained: the candidate may not be signed; every reason, each with its remedy
    ├── MisfitError                  who recorded: a machine that cannot be learnt from; which, which column, and what to do
    ├── BlindDetectorError           who knows the machines: small disturbances are hardly seen; is that enough?
    ├── FlowerServerError            we: the embedded Flower server cannot do its work
    │   ├── FlowerVersionError       the person who installed: another Flower than the one this build was written for
    │   ├── FlowerListenError        the person who configured: address in use, certificate or key unreadable
    │   └── RosterError              the roster given cannot be used: no P-256 key, one key for two devices
    ├── PrivacyError                 rounds may not be counted, or may not happen, as asked
    │   ├── PrivacyBudgetError       the person who configured: a plan or a round beyond the budget; no device was asked
    │   ├── PrivacyPlanError         the person who configured: noise, clip or delta that cannot give what is wanted
    │   └── LedgerError              we: the privacy ledger does not take this entry; the round must not go on
    │       └── LedgerDamagedError   whoever touched the file: its chain of digests is broken; restore it from a backup
    ├── FlowerRunEndedError          we: the Flower run no longer accepts questions; start another one
    └── RoundError                   this round gave nothing; the model is untouched, the next round may work
        ├── AnswerRefusedError       one device: its answer is misshapen, not finite or beyond a limit
        ├── SumError                 the cohort's sum cannot be used: no examples, not finite, a range missing
        ├── QuorumMissedError        too few devices answered in time       ┐ defined in `aggregator.rounds.reports`:
        └── RoundCanceledError       somebody asked for the run to end      ┘ they carry the round's report

A key, a value, a file or an address that the person who configured has to mend is `runtime.errors.SettingsError`; who calls the
operator API, and may they (401, 403), is `service.errors.AccessError`.
"""

from __future__ import annotations

from runtime.errors import FedgeError

__all__ = [
    "AggregatorError",
    "AnswerRefusedError",
    "BlindDetectorError",
    "ChampionError",
    "ExportFailedError",
    "FleetError",
    "FleetRefusedError",
    "FleetUnreachableError",
    "FlowerListenError",
    "FlowerRunEndedError",
    "FlowerServerError",
    "FlowerVersionError",
    "GateRefusedError",
    "LedgerDamagedError",
    "LedgerError",
    "MisfitError",
    "PrivacyBudgetError",
    "PrivacyError",
    "PrivacyPlanError",
    "RosterError",
    "RoundError",
    "RunConflictError",
    "SumError",
    "UnknownRunError",
    "UntrustedListError",
]


class AggregatorError(FedgeError):
    """Root of every failure in this package."""


class FleetError(AggregatorError):
    """The fleet's HTTP API did not do what was asked."""


class FleetUnreachableError(FleetError):
    """No answer, or a failure of the fleet's own; wait and try again."""


class FleetRefusedError(FleetError):
    """The fleet refused; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ChampionError(AggregatorError):
    """The release in force of a family cannot be trained from."""


class UnknownRunError(AggregatorError):
    """No run of this id, or no family of this name; the message lists what there is."""


class RunConflictError(AggregatorError):
    """The run or family is not in a state that allows it."""


class ExportFailedError(AggregatorError):
    """The candidate could not be quantised or packed; the run fails and the champion stays."""


class GateRefusedError(AggregatorError):
    """The gate before the signature refused a candidate; nothing was signed, and the message names every reason and what to do."""


class MisfitError(AggregatorError):
    """Recordings that no first release can be made of; the message names machine and column, and what to do."""


class BlindDetectorError(AggregatorError):
    """A detector that hardly sees small disturbances, which only who knows the machines can accept; nothing was trained."""


class FlowerServerError(AggregatorError):
    """The embedded Flower server cannot do its work; the message says what to mend."""


class FlowerVersionError(FlowerServerError):
    """The Flower that is installed lacks what the adapter uses; install the version the message names."""


class FlowerListenError(FlowerServerError):
    """The Fleet API cannot listen: the address is taken, or the certificate or key cannot be used."""


class RosterError(FlowerServerError):
    """A device list that cannot become a roster; nothing of it was taken over."""


class PrivacyError(AggregatorError):
    """Privacy accounting refuses; no sum is used."""


class PrivacyBudgetError(PrivacyError):
    """More than the family may spend; the message says which parameter to change to what."""


class PrivacyPlanError(PrivacyError):
    """Parameters that cannot be met together; the message says which to change to what."""


class LedgerError(PrivacyError):
    """The ledger cannot be written, or the entry contradicts what it holds; ask no device, use no sum."""


class LedgerDamagedError(LedgerError):
    """The ledger's entries are not the ones that were written; no figure computed from it would be honest."""


class FlowerRunEndedError(AggregatorError):
    """The Flower run is finished or its heartbeat ran out; start another one and ask again."""


class RoundError(AggregatorError):
    """A round gave nothing that may be used; the model is as it was."""


class AnswerRefusedError(RoundError):
    """One device's answer is refused; its message is the reason shown to the operator."""


class SumError(RoundError):
    """A cohort's sum from which nothing can be read; the message says which part."""


class UntrustedListError(AggregatorError):
    """A list of releases that no trusted key signed: it is never extended, as signing it would be vouching for it."""
