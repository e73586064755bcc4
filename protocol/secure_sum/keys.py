"""The keys of one device in one round, and what two devices derive from them.

A device makes two fresh X25519 key pairs for every round: one whose shared secrets encrypt the shares it sends to its
neighbours, one whose shared secrets seed the masks. Every derived key names its purpose, the round and both devices in
the HKDF info string, so a key made for one use, round or direction is void for every other. A pair seed also binds what
the server announced (model, configuration, graph): show two devices different ones and their masks do not cancel.

Not here: who may take part (`device_role`), long-lived identities (`protocol.identity`). Nothing here draws randomness
by itself; `RandomBytes` is handed in and must be the operating system's generator outside of tests.

Source: RFC 7748 (X25519), RFC 5869 (HKDF); Bell, Bonawitz, Gascón, Lepoint, Raykova, "Secure Single-Server Aggregation
with (Poly)Logarithmic Overhead", CCS 2020, figure 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.secure_sum.errors import KeyAgreementError

__all__ = [
    "KEY_BYTES",
    "SHARE_KEY_BYTES",
    "KeyPair",
    "RandomBytes",
    "RoundBinding",
    "check_public_key",
    "derive_pair_seed",
    "derive_share_key",
    "generate_key_pair",
    "key_pair_from_secret",
    "shared_secret",
]

RandomBytes = Callable[[int], bytes]
"""Gives that many unpredictable bytes: `os.urandom`, or a seeded generator in a test."""

KEY_BYTES: Final = 32
"""Secret keys, public keys, shared secrets and mask seeds are all 32 bytes."""

SHARE_KEY_BYTES: Final = 16
"""Keys of AES-128-GCM, which seals the shares."""

_DOMAIN: Final = b"fedge/secure-sum/v1"

_FIELD: Final = 2**255 - 19
_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        _FIELD - 1,
        0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    }
)
"""u-coordinates of the points of order 1, 2, 4 and 8 on the curve and its twist."""


class KeyPair:
    """An X25519 key pair for one round. The secret never shows in a representation; `wipe` forgets it.

    Args:
        secret: 32 bytes.

    Raises:
        KeyAgreementError: the secret is not 32 bytes.
    """

    def __init__(self, secret: bytes | bytearray) -> None:
        _check_length(secret, "secret key")
        self.secret = bytearray(secret)
        # Loaded once: loading costs a point multiplication, as much as an agreement itself.
        self._loaded: X25519PrivateKey | None = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._loaded.public_key().public_bytes_raw()

    def agree(self, peer_public: bytes) -> bytes:
        """X25519 of one's own secret and the peer's public key, 32 bytes: the same on both sides.

        Raises:
            KeyAgreementError: the peer's key is not 32 bytes, or a point of small order, which would make the shared
                secret known to everybody (RFC 7748 section 6.1): refuse that peer. Or this pair has been wiped.
        """
        check_public_key(peer_public)
        if self._loaded is None:
            raise KeyAgreementError("this key pair has been wiped; a new round takes a new one")
        try:
            return self._loaded.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:
            raise KeyAgreementError(f"public key {peer_public.hex()} is refused: {error}") from None

    def wipe(self) -> None:
        """Overwrite the secret with zeros and let the library's copy go, which it overwrites itself.

        Copies that the interpreter made in passing are beyond our reach.
        """
        self.secret[:] = bytes(len(self.secret))
        self._loaded = None

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.hex()})"


@dataclass(frozen=True, kw_only=True)
class RoundBinding:
    """What both ends of a pair must agree on before their masks cancel.

    `session` is unique per attempt (a retry has another); the hashes are SHA-256 digests of the model and the
    configuration the server announced and of the neighbour graph.
    """

    session: str
    round_number: int
    model_hash: bytes
    config_hash: bytes
    graph_hash: bytes


def generate_key_pair(random_bytes: RandomBytes) -> KeyPair:
    """Make a fresh key pair from 32 random bytes."""
    return key_pair_from_secret(random_bytes(KEY_BYTES))


def key_pair_from_secret(secret: bytes | bytearray) -> KeyPair:
    """The key pair of a 32-byte secret: how the server turns a reconstructed secret back into pair seeds.

    Raises:
        KeyAgreementError: the secret is not 32 bytes.
    """
    return KeyPair(secret)


def shared_secret(secret: bytes | bytearray, peer_public: bytes) -> bytes:
    """What the owner of `secret` and the owner of `peer_public` share, 32 bytes. See `KeyPair.agree`.

    For one agreement; for many with the same secret `KeyPair.agree` takes half the time.
    """
    return KeyPair(secret).agree(peer_public)


def check_public_key(public: bytes) -> None:
    """Pass a public key that shared secrets can be made with: the check of `KeyPair.agree` without its multiplication.

    Raises:
        KeyAgreementError: it is not 32 bytes, or a point of small order.
    """
    _check_length(public, "public key")
    # RFC 7748 section 5: the top bit is ignored, and values up to 2^255 - 1 are taken modulo p.
    if (int.from_bytes(public, "little") & ((1 << 255) - 1)) % _FIELD in _SMALL_ORDER:
        raise KeyAgreementError(
            f"public key {public.hex()} is a point of small order: its shared secrets are known to everybody; "
            "an honest device's key never is"
        )


def derive_pair_seed(shared: bytes, *, binding: RoundBinding, devices: tuple[str, str]) -> bytes:
    """The 32-byte seed of the mask two devices share, whichever of them asks: the order of `devices` is irrelevant."""
    low, high = sorted(device.encode() for device in devices)
    return _derive(
        shared,
        KEY_BYTES,
        b"pair",
        binding.session.encode(),
        binding.round_number.to_bytes(8, "big"),
        binding.model_hash,
        binding.config_hash,
        binding.graph_hash,
        low,
        high,
    )


def derive_share_key(shared: bytes, *, session: str, round_number: int, sender: str, recipient: str) -> bytes:
    """The 16-byte key that seals the shares of one `sender` for one `recipient`; the way back has another key."""
    return _derive(
        shared,
        SHARE_KEY_BYTES,
        b"share",
        session.encode(),
        round_number.to_bytes(8, "big"),
        sender.encode(),
        recipient.encode(),
    )


def _derive(shared: bytes, length: int, *fields: bytes) -> bytes:
    # Each field carries its length: otherwise ("ab", "c") and ("a", "bc") would share a key.
    info = b"".join(len(part).to_bytes(2, "big") + part for part in (_DOMAIN, *fields))
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(shared)


def _check_length(key: bytes | bytearray, what: str) -> None:
    if len(key) != KEY_BYTES:
        raise KeyAgreementError(f"an X25519 {what} is {KEY_BYTES} bytes, got {len(key)}")
