"""What makes a message its sender's word whoever carries it: the seal, three extension attributes of the envelope.

`protocol.sealed_events` makes and checks seals; this is only how one looks.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from protocol.limits import MAX_INTEGER

__all__ = ["Seal"]


class Seal(Struct, frozen=True, kw_only=True):
    """A signature over a message and whom it is for.

    `not_after` is the Unix second from which on nobody obeys it; 0: it does not end. `nonce` makes two words with the same
    content two. `signature` is base64 of a DER ECDSA signature. `data_sha256` is of the data as they came, and does not travel.
    """

    not_after: Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
    nonce: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
    signature: Annotated[str, Meta(max_length=128)]
    data_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
