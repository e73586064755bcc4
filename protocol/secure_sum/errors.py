"""Everything that can go wrong in a secure sum.

::

    SecureSumError (a ProtocolError)
    └── PrimitiveError           a building block was handed something it must not work on
        ├── KeyAgreementError    a public key that is no usable X25519 point, a secret of another length
        ├── SealedShareError     sealed shares that do not open for this recipient in this round
        ├── ShareError           shares that cannot be made, or that do not combine to a secret
        ├── MaskError            a seed, a vector or packed words of another shape than agreed
        └── FixedPointError      a value, bound or word size with which a sum could overflow
"""

from __future__ import annotations

from protocol.errors import ProtocolError

__all__ = [
    "FixedPointError",
    "KeyAgreementError",
    "MaskError",
    "PrimitiveError",
    "SealedShareError",
    "SecureSumError",
    "ShareError",
]


class SecureSumError(ProtocolError):
    """Root of every refusal in a secure sum."""


class PrimitiveError(SecureSumError):
    """A building block was handed something it must not work on."""


class KeyAgreementError(PrimitiveError):
    """A key is not 32 bytes or its shared secrets would be known to everybody; refuse the device it came from."""


class SealedShareError(PrimitiveError):
    """Sealed shares are of another length, or were sealed for another recipient, round or session."""


class ShareError(PrimitiveError):
    """A secret cannot be split as asked, or shares do not combine: too few, altered, or of different secrets."""


class MaskError(PrimitiveError):
    """A seed, a vector of words or packed words do not have the shape the round agreed on."""


class FixedPointError(PrimitiveError):
    """A value, a bound or a word size with which a sum of all devices could overflow."""
