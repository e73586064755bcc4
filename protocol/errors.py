"""Everything that can be wrong with what another machine sent.

::

    ProtocolError
    ├── MessageError                 the sender must mend it
    │   ├── MalformedMessageError    not JSON, truncated, a field missing or of another type
    │   ├── UnknownVersionError      a kind or version this build does not speak
    │   └── MessageTooLargeError     more bytes or deeper nesting than the limits allow
    ├── TopicError                   a topic outside the scheme of `protocol.topics`
    ├── BundleError                  the release is refused
    │   ├── BundleFormatError        not a bundle, truncated, bytes left over
    │   ├── BundleIntegrityError     content differs from what the manifest promises
    │   └── UntrustedBundleError     signature wrong, or made by a key this device does not trust
    ├── IdentityError                the caller is not who it says
    │   ├── TokenError               a device token is malformed, expired or not signed by its key
    │   ├── SealError                a signed message is another's, for another, changed, or over
    │   └── InvitationError          an invitation to training is not the pinned aggregator's, or not for this device now
    ├── JoinFileError                the file that lets a device join: not one, of another version, sealed, or changed
    └── QuestionError                a round question or answer that does not fit `protocol.questions`
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "BundleFormatError",
    "BundleIntegrityError",
    "IdentityError",
    "InvitationError",
    "JoinFileError",
    "MalformedMessageError",
    "MessageError",
    "MessageTooLargeError",
    "ProtocolError",
    "QuestionError",
    "SealError",
    "TokenError",
    "TopicError",
    "UnknownVersionError",
    "UntrustedBundleError",
]


class ProtocolError(Exception):
    """Root of every refusal in this package."""


class MessageError(ProtocolError):
    """A message cannot be accepted; drop it, count it, tell the operator."""


class MalformedMessageError(MessageError):
    """The payload is not the JSON the message's schema describes."""


class UnknownVersionError(MessageError):
    """The message is of a kind or version this build does not speak; upgrade one side."""


class MessageTooLargeError(MessageError):
    """The payload exceeds the size or nesting limit."""


class TopicError(ProtocolError):
    """A topic, tenant or device name does not fit the topic scheme."""


class BundleError(ProtocolError):
    """A model bundle is refused; nothing of it may be used."""


class BundleFormatError(BundleError):
    """The bytes are not a complete bundle of a known format."""


class BundleIntegrityError(BundleError):
    """A file in the bundle is not the one its manifest names."""


class UntrustedBundleError(BundleError):
    """The manifest's signature does not verify under a trusted release key."""


class IdentityError(ProtocolError):
    """A key or a signature is not what was claimed."""


class TokenError(IdentityError):
    """A device token is malformed, expired, or signed by another key."""


class InvitationError(IdentityError):
    """An invitation to training that this device does not follow: forged, changed, for others, over, or leading elsewhere."""


class SealError(IdentityError):
    """A signed message has no signature, another's, one for somebody else, or has ended."""


class JoinFileError(ProtocolError):
    """A join file cannot be used; `fedge device add` makes another."""


class QuestionError(ProtocolError):
    """A round question or its answer has missing, surplus or misshapen vectors."""
