"""Everything that can end or shrink a secure sum, grouped by who must act.

::

    SecureSumError (a ProtocolError)
    ├── InfeasiblePlanError          the operator: no graph meets the bounds; says which parameter to change and to what
    ├── RefusedRoundError            the DEVICE will not go on with this round; its secrets of the round are wiped
    │   ├── CohortTooSmallError          fewer devices than the device's floor
    │   ├── ThresholdTooLowError         fewer shares than the device's floor would open a secret
    │   ├── TooFewSurvivorsError         fewer survivors than max(threshold, floor)
    │   ├── SurvivorMismatchError        survivors or dropped that the device never saw share, or itself not a survivor
    │   ├── BothListsError               one device listed as survivor and as dropped: both its secrets were asked for
    │   ├── RepeatedStageError           a stage was requested twice, or after the round had ended
    │   ├── StageOrderError              a stage was skipped
    │   ├── UnknownDeviceError           a device that is not in the roster
    │   ├── AdvertisementError           forged, replayed, reflected, or for another round or announcement
    │   ├── GraphMismatchError           not the neighbours that the cohort's hash gives
    │   ├── AnnouncementMismatchError    the model or configuration is not the one announced, or the message is of another round
    │   └── SplitViewError               too few neighbours signed the same list of survivors
    ├── RejectedContributionError    the SERVER leaves one device out; the round goes on without it
    ├── VoidRoundError               the server: too few devices are left; nothing is unmasked, retry with fresh secrets
    ├── SumMessageError              the sender must mend a message: malformed, too large, or of another stage
    └── PrimitiveError               a building block was handed something that is not what it says
        ├── KeyAgreementError            not a key, or a point of small order
        ├── MaskError                    words, seed or packing of the wrong shape
        ├── ShareError                   shares that do not belong together, or an impossible threshold
        ├── SealedShareError             shares that were not sealed for this device in this round
        └── FixedPointError              an answer that does not fit its bounds or its words
"""

from __future__ import annotations

from protocol.errors import ProtocolError

__all__ = [
    "AdvertisementError",
    "AnnouncementMismatchError",
    "BothListsError",
    "CohortTooSmallError",
    "FixedPointError",
    "GraphMismatchError",
    "InfeasiblePlanError",
    "KeyAgreementError",
    "MaskError",
    "PrimitiveError",
    "RefusedRoundError",
    "RejectedContributionError",
    "RepeatedStageError",
    "SealedShareError",
    "SecureSumError",
    "ShareError",
    "SplitViewError",
    "StageOrderError",
    "SumMessageError",
    "SurvivorMismatchError",
    "ThresholdTooLowError",
    "TooFewSurvivorsError",
    "UnknownDeviceError",
    "VoidRoundError",
]


class SecureSumError(ProtocolError):
    """Root of everything that can go wrong in a secure sum."""


class InfeasiblePlanError(SecureSumError):
    """No degree and threshold meet the bounds; change the parameter the message names."""


class RefusedRoundError(SecureSumError):
    """The device refuses to go on; the round's secrets are wiped and nothing more of it will be answered."""


class CohortTooSmallError(RefusedRoundError):
    """A sum over so few devices would say too much about one of them."""


class ThresholdTooLowError(RefusedRoundError):
    """So few colluding neighbours could open a device's secrets that the device will not share them."""


class TooFewSurvivorsError(RefusedRoundError):
    """Too few devices are left for the sum to hide anyone, or for their shares to suffice."""


class SurvivorMismatchError(RefusedRoundError):
    """The lists of survivors and dropped do not follow from who shared."""


class BothListsError(RefusedRoundError):
    """A device is listed as survivor and as dropped; with both its secrets its input would be laid bare."""


class RepeatedStageError(RefusedRoundError):
    """A stage was requested a second time; a second answer could contradict the first and reveal an input."""


class StageOrderError(RefusedRoundError):
    """A stage was requested before the one it follows."""


class UnknownDeviceError(RefusedRoundError):
    """A device that is not in the roster the device holds, or not in the cohort."""


class AdvertisementError(RefusedRoundError):
    """A key advertisement that its device did not sign for this round, or that uses someone else's keys."""


class GraphMismatchError(RefusedRoundError):
    """The neighbours are not those which the hash of the cohort's advertisements gives."""


class AnnouncementMismatchError(RefusedRoundError):
    """The model or the configuration at hand, or a message, is not of the round that was announced."""


class SplitViewError(RefusedRoundError):
    """Too few neighbours confirm the same survivors; the server may have told others something else."""


class RejectedContributionError(SecureSumError):
    """What one device sent cannot be used; leave that device out and go on."""


class VoidRoundError(SecureSumError):
    """The sum cannot be formed; nothing is unmasked. Retry with a new session: every secret must be fresh."""


class SumMessageError(SecureSumError):
    """Not a secure-sum message of the expected kind and size."""


class PrimitiveError(SecureSumError):
    """A building block was handed something that is not what it says."""


class KeyAgreementError(PrimitiveError):
    """Bytes that are no X25519 key, or a point of small order whose shared secrets everybody knows."""


class MaskError(PrimitiveError):
    """Words, a seed or packed bytes of another shape than the protocol's."""


class ShareError(PrimitiveError):
    """Shares that do not belong together, or a secret that cannot be shared as asked."""


class SealedShareError(PrimitiveError):
    """Shares that were not sealed for this device in this round."""


class FixedPointError(PrimitiveError):
    """An answer that does not fit its bounds, or bounds that do not fit the words."""
