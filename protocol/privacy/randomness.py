"""A stream of secret random words for noise and rounding: AES-256 in counter mode under one fresh key.

It is not a general generator: it hands out exactly the two shapes the mechanism needs, and never repeats itself,
because a key is used for one stream only. The same key gives the same stream on every machine (words are
little-endian by definition), which tests enjoy.

Source: NIST SP 800-38A, section 6.5; Mironov, "On significance of the least significant bits for differential
privacy", CCS 2012, on why noise must not come from a statistical generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from protocol.privacy.errors import SeedError

__all__ = ["KEY_BYTES", "RandomBytes", "RandomStream"]

RandomBytes = Callable[[int], bytes]
"""Where keys come from: `os.urandom` in production."""

KEY_BYTES: Final = 32


class RandomStream:
    """Uniform words from one 32-byte key; each call continues where the last one ended.

    Raises:
        SeedError: the key is not 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SeedError(f"a stream's key has {KEY_BYTES} bytes, got {len(key)}")
        # The zero nonce is safe because no key ever starts a second stream.
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def fresh(cls, random_bytes: RandomBytes) -> RandomStream:
        """A stream under a new key drawn from `random_bytes`."""
        return cls(random_bytes(KEY_BYTES))

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` words, uniform over [0, 2^64), shape (count,)."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), "<u8").astype(np.uint64, copy=False)

    def fractions(self, count: int) -> NDArray[np.float64]:
        """The next `count` multiples of 2^-53, uniform over [0, 1), shape (count,)."""
        leading: NDArray[np.float64] = (self.words(count) >> np.uint64(11)).astype(np.float64)
        return leading * 2.0**-53
