"""Everything that can go wrong on a device, grouped by who must act.

What every program shares is in `runtime.errors`: `SettingsError` (the person who wrote agent.toml) and `StorageError`
(the device's disk: full, read-only, or a file of ours that is damaged). Whoever catches all of ours catches `FedgeError`.

::

    EdgeAgentError
    ├── SourceError              the sensor or the recording does not deliver (edge_agent.sources)
    │   └── SourceSilentError        it has not answered for a while; whoever watches it has told so
    ├── RestartNeededError       this process cannot be mended from within; its supervisor starts another one
    ├── InstallationError        a release is not installed; the one that runs keeps running
    │   ├── ReleaseRefusedError      the sender: stale, incompatible or untrusted; asking again does not help
    │   ├── InstallFailedError       this device or this release: no space, wrong golden outputs, a crash in the probe
    │   └── InstallTimeoutError      download or probe did not end in time
    ├── FleetError               the road to the fleet's HTTPS API
    │   ├── FleetUnreachableError    refused, no route, name unknown, reset, or silent for too long: try again later
    │   ├── FleetTlsError            the other side is not the fleet whose CA is pinned here
    │   └── FleetAnswerError         the fleet answered, but with an error or something else than asked
    │       ├── FleetDeniedError     401 or 403: this device's key, claim token or clock is not accepted
    │       ├── FleetNotFoundError   404: there is no such thing
    │       └── FleetConflictError   409: the device is enrolled with another key
    ├── UpdateTrustError         what the signed repository serves is not believed, or has ended; what was believed before stays
    ├── LearnerError             a training run goes on without this device; inference is not touched
    │   ├── NotReadyError             this device: no active model, too few windows, or the invitation is for another
    │   ├── QuestionRefusedError      the aggregator: a question that this device does not answer; only its code crosses
    │   │   └── PrivacyRefusedError       the owner's limits: this answer would give more than the device may give
    │   ├── TrainingDivergedError     the learning rate: too high for this device's windows; it adds zeros, and halves its next step
    │   ├── PlainAnswerRefusedError   the aggregator asks for an answer without a secure sum
    │   ├── AggregatorUnreachableError  the road: refused, reset, silent, or the aggregator is restarting; try again later
    │   ├── AggregatorRefusedError    the aggregator does not know this device's key, or another answers than the pinned one
    │   └── AggregatorAnswerError     the aggregator answered something else than asked; drop this one message
    ├── NotEnrolledError         the device has no identity yet: `fedge-agent enrol`
    └── IdentityKeyError         the chip that holds the identity key: away, PIN refused, no such key; asking later may help
"""

from __future__ import annotations

from protocol.refusals import RefusalCode
from runtime.errors import FedgeError

__all__ = [
    "AggregatorAnswerError",
    "AggregatorRefusedError",
    "AggregatorUnreachableError",
    "EdgeAgentError",
    "FleetAnswerError",
    "FleetConflictError",
    "FleetDeniedError",
    "FleetError",
    "FleetNotFoundError",
    "FleetTlsError",
    "FleetUnreachableError",
    "IdentityKeyError",
    "InstallFailedError",
    "InstallTimeoutError",
    "InstallationError",
    "LearnerError",
    "NotEnrolledError",
    "NotReadyError",
    "PlainAnswerRefusedError",
    "PrivacyRefusedError",
    "QuestionRefusedError",
    "ReleaseRefusedError",
    "RestartNeededError",
    "SourceError",
    "SourceSilentError",
    "TrainingDivergedError",
    "UpdateTrustError",
]


class EdgeAgentError(FedgeError):
    """Root of every failure in this package."""


class SourceError(EdgeAgentError):
    """The source cannot be opened or delivers something that is not a window."""


class SourceSilentError(SourceError):
    """The source's driver is still in a call that began a while ago; the message names it and says how long."""


class RestartNeededError(EdgeAgentError):
    """This process cannot be mended from within: it says goodbye and ends, and its supervisor starts another one."""


class NotEnrolledError(EdgeAgentError):
    """The state directory holds no device identity."""


class IdentityKeyError(EdgeAgentError):
    """The chip that holds the identity key does not give a signature, or a key that is not the one of its label."""


class InstallationError(EdgeAgentError):
    """A release was not installed; the release that runs keeps running."""


class ReleaseRefusedError(InstallationError):
    """Stale, incompatible or untrusted: the same bytes will be refused again, publish another release."""


class InstallFailedError(InstallationError):
    """This device could not take the release: disk space, golden outputs, a crash or too much memory in the probe."""


class InstallTimeoutError(InstallationError):
    """Downloading or probing did not end in time; ask again when the road or the device is free."""


class FleetError(EdgeAgentError):
    """The fleet's HTTPS API did not do what was asked."""


class FleetUnreachableError(FleetError):
    """Nobody answered, or the connection broke; try again later."""


class FleetTlsError(FleetError):
    """The certificate shown does not verify under the pinned CA, or is for another name; check url and ca_file."""


class FleetAnswerError(FleetError):
    """The fleet answered with an error status or with something else than was asked for.

    Attributes:
        status: the HTTP status, or 0 where the status was fine but the content was not.
        date_s: what time it is by the fleet, Unix seconds; None where it did not say.
    """

    def __init__(self, message: str, *, status: int = 0, date_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.date_s = date_s


class FleetDeniedError(FleetAnswerError):
    """401 or 403: the device's key, its claim token or its clock is not accepted."""


class FleetNotFoundError(FleetAnswerError):
    """404: the fleet has no such resource."""


class FleetConflictError(FleetAnswerError):
    """409: what was asked contradicts what the fleet holds, e.g. a known device with another key."""


class UpdateTrustError(EdgeAgentError):
    """The signed repository is not known, not believed or not fresh: nothing new is installed until it is; what runs goes on."""


class LearnerError(EdgeAgentError):
    """This device cannot take part in a training run; the message says why."""


class NotReadyError(LearnerError):
    """The device lacks what the run needs, now; a later invitation may find it ready."""


class QuestionRefusedError(LearnerError):
    """A round's question that this device does not answer, decided before its data were touched.

    Attributes:
        code: all that the aggregator is told; the words stay here.
    """

    def __init__(self, code: RefusalCode, words: str) -> None:
        super().__init__(words)
        self.code = code


class TrainingDivergedError(LearnerError):
    """Training here left what a model can be; in a secure sum that is zeros, in plain FAILED."""


class PlainAnswerRefusedError(LearnerError):
    """An answer in plain is asked for; this device's owner allows answers under a secure sum only."""


class PrivacyRefusedError(QuestionRefusedError):
    """The owner's limits: this answer does not leave the device."""


class AggregatorUnreachableError(LearnerError):
    """Nobody answered, or the server said that it cannot now; try again later."""


class AggregatorRefusedError(LearnerError):
    """The device's key is not in the aggregator's roster, or whoever answers is not the aggregator whose key is pinned here."""


class AggregatorAnswerError(LearnerError):
    """What came is no answer to what was asked; this message is lost, the next one may be fine."""
