"""A file sealed with a passphrase, written and read piece by piece: a backup may be larger than memory.

::

    MAGIC | salt 16 | prefix 7 | piece | piece | … | last piece          key = scrypt(passphrase, salt)
    piece: AES-256-GCM of 1 MiB, nonce = prefix | number of the piece (4 bytes) | 1 in the last one, else 0

A piece that was changed, left out, moved or cut off at the end is noticed before any of it is handed on. It does not hide how large
the file is. Source: Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance",
CRYPTO 2015 (STREAM); RFC 7914 (scrypt).
"""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fleet.errors import UnacceptableError

if TYPE_CHECKING:  # of Python 3.12; on 3.11 for mypy alone
    from typing_extensions import Buffer

__all__ = ["LEAST_PASSPHRASE_CHARS", "MAGIC", "Sealer", "Unsealer", "check_passphrase"]

MAGIC: Final = b"fedge sealed backup 1\n"
PIECE_BYTES: Final = 1 << 20
TAG_BYTES: Final = 16
COST: Final = 1 << 17
"""scrypt's N: a guess costs 128 MiB and about half a second."""

LEAST_PASSPHRASE_CHARS: Final = 12
"""A backup holds every key of the plant, and whoever has the file may guess for years."""


def check_passphrase(passphrase: str) -> None:
    """Raise UnacceptableError for one that is too short to seal a plant's keys with."""
    if len(passphrase) < LEAST_PASSPHRASE_CHARS:
        raise UnacceptableError(
            f"a passphrase of {len(passphrase)} characters does not keep a plant's keys; at least {LEAST_PASSPHRASE_CHARS}"
        )


class _Pieces:
    def __init__(self, passphrase: str, salt: bytes, prefix: bytes) -> None:
        self._cipher = AESGCM(Scrypt(salt=salt, length=32, n=COST, r=8, p=1).derive(passphrase.encode()))
        self._prefix, self._number = prefix, 0

    def nonce(self, *, is_last: bool) -> bytes:
        made = self._prefix + self._number.to_bytes(4) + bytes([is_last])
        self._number += 1
        return made

    def seal(self, plain: bytes, *, is_last: bool) -> bytes:
        return self._cipher.encrypt(self.nonce(is_last=is_last), plain, MAGIC)

    def open(self, sealed: bytes, *, is_last: bool) -> bytes:
        return self._cipher.decrypt(self.nonce(is_last=is_last), sealed, MAGIC)


class Sealer(io.RawIOBase):
    """Seals what is written to it into `sink`; `close` writes the last piece and leaves the sink open."""

    def __init__(self, sink: IO[bytes], passphrase: str) -> None:
        super().__init__()
        check_passphrase(passphrase)
        salt, prefix = os.urandom(16), os.urandom(7)
        self._sink, self._waiting = sink, bytearray()
        self._pieces = _Pieces(passphrase, salt, prefix)
        sink.write(MAGIC + salt + prefix)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, content: Buffer, /) -> int:
        """Take it all; a piece goes on once it is full and something follows it."""
        self._waiting += content
        while len(self._waiting) > PIECE_BYTES:
            self._sink.write(self._pieces.seal(bytes(self._waiting[:PIECE_BYTES]), is_last=False))
            del self._waiting[:PIECE_BYTES]
        return memoryview(content).nbytes

    def close(self) -> None:
        """Write the last piece."""
        if not self.closed:
            self._sink.write(self._pieces.seal(bytes(self._waiting), is_last=True))
        super().close()


class Unsealer(io.RawIOBase):
    """Reads what `Sealer` wrote to `source`, whose `MAGIC` has been read already.

    Raises:
        UnacceptableError: another passphrase, or a file that was changed or cut off (also while it is read).
    """

    def __init__(self, source: IO[bytes], passphrase: str) -> None:
        super().__init__()
        head = source.read(23)
        if len(head) != 23:
            raise UnacceptableError("the sealed backup is cut off within its head: copy it again")
        self._source, self._plain = source, b""
        self._pieces = _Pieces(passphrase, head[:16], head[16:])
        self._next = source.read(PIECE_BYTES + TAG_BYTES)
        self._is_first, self._is_over = True, False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, target: Buffer, /) -> int:
        """Fill `target` as far as the present piece goes; 0 at the end."""
        while not self._plain and not self._is_over:
            self._plain = self._read_piece()
        view = memoryview(target)
        count = min(view.nbytes, len(self._plain))
        view[:count], self._plain = self._plain[:count], self._plain[count:]
        return count

    def _read_piece(self) -> bytes:
        piece, self._next = self._next, self._source.read(PIECE_BYTES + TAG_BYTES)
        self._is_over = not self._next
        try:
            plain = self._pieces.open(piece, is_last=self._is_over)
        except InvalidTag:
            raise UnacceptableError(
                "the passphrase does not open this backup, or the file was changed"
                if self._is_first
                else "the sealed backup was changed or cut off: copy it again"
            ) from None
        self._is_first = False
        return plain
