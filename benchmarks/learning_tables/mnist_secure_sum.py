"""One real secure sum over the hundred devices: all four stages of `protocol.secure_sum`, every message encoded and decoded.

The rounds of the private rows add up the devices' words modulo 2^32 directly, which is what the secure sum yields; this shows, once a
row and seed, that it does, on the very words of a round. What the protocol costs is `benchmarks/secure_sum.py`'s business.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from endless_budget import EndlessBudget
from numpy.typing import NDArray

from protocol.names import DeviceId
from protocol.secure_sum.device_role import DevicePolicy, DeviceRole
from protocol.secure_sum.messages import (
    Advertisement,
    Announcement,
    CohortBook,
    MaskedInput,
    RevealedShares,
    SealedShares,
    ShareDelivery,
    UnmaskRequest,
    decode,
    encode,
)
from protocol.secure_sum.server_role import ServerPolicy, ServerRole

__all__ = ["secure_total"]

HASH = bytes(32)


def secure_total(words: Sequence[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    """The sum modulo 2^32 of each device's words (d,), of which the server learns nothing else; all devices stay to the end."""
    names = [DeviceId(f"device-{at:03d}") for at in range(len(words))]
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in names}
    roster = {name: key.public_key() for name, key in keys.items()}
    announcement = Announcement(
        session="mnist-private-round",
        round_number=1,
        model_hash=HASH,
        config_hash=HASH,
        word_bits=32,
        word_count=len(words[0]),
    )
    server = ServerRole(announcement, roster=roster, policy=ServerPolicy(dropout_fraction=0.1))
    roles = {
        name: DeviceRole(
            name,
            identity_key=keys[name],
            roster=roster,
            policy=DevicePolicy(),
            budget=EndlessBudget(),
            random_bytes=os.urandom,
        )
        for name in names
    }
    for name, role in roles.items():
        advertised = encode(role.advertise(decode(encode(announcement), Announcement)))
        server.accept_advertisement(name, decode(advertised, Advertisement))
    books = server.close_advertising()
    for name, role in roles.items():
        shares = encode(role.share_keys(decode(encode(books[name]), CohortBook)))
        server.accept_shares(name, decode(shares, SealedShares))
    deliveries = server.close_sharing()
    for (name, role), own in zip(roles.items(), words, strict=True):
        delivery = decode(encode(deliveries[name]), ShareDelivery)
        role.accept(delivery, model_hash=HASH, config_hash=HASH)
        masked = encode(role.mask(own))
        server.accept_masked_input(name, decode(masked, MaskedInput))
    requests = server.close_masking()
    for name, role in roles.items():
        revealed = encode(role.unmask(decode(encode(requests[name]), UnmaskRequest)))
        server.accept_revealed(name, decode(revealed, RevealedShares))
    return server.finish().words
