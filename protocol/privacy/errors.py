"""What can be wrong with a private encoding.

::

    PrivacyError (a protocol.errors.ProtocolError)
    ├── ParameterError             the operator must change a setting; the message names it and a value that would do
    │   └── WordTooNarrowError     the cohort's noisy sum does not fit the words at any scale
    ├── UpdateError                the device's own update is not a finite vector of the agreed length
    ├── SeedError                  a stream's key of another length
    ├── SumError                   the sum is not one of the agreed words and length
    └── UnderNoisedError           fewer survivors than planned: the round is void, nothing may be released
"""

from __future__ import annotations

from protocol.errors import ProtocolError

__all__ = [
    "ParameterError",
    "PrivacyError",
    "SeedError",
    "SumError",
    "UnderNoisedError",
    "UpdateError",
    "WordTooNarrowError",
]


class PrivacyError(ProtocolError):
    """Root of every refusal in this package."""


class ParameterError(PrivacyError):
    """A parameter is outside its range; the message names it and what would be valid."""


class WordTooNarrowError(ParameterError):
    """The words are too narrow for the cohort; the message says how many bits or devices would do."""


class UpdateError(PrivacyError):
    """An update is not a finite vector of the agreed length; send nothing."""


class SeedError(PrivacyError):
    """The key of a random stream does not have the bytes it must have."""


class SumError(PrivacyError):
    """A sum cannot be read: another length, or words outside [0, 2^bits)."""


class UnderNoisedError(PrivacyError):
    """The sum carries less noise than planned; discard it and repeat the round with fresh secrets."""
