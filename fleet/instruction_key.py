"""The key under which this fleet's instructions hold: its file, and how it is changed.

::

    instruction.key        seals desired states, commands with settings, and acknowledgements now     0600
    instruction-next.key   the one that will, once the repository names it

    rotate ─► the public half into the ceremony: role `fleet` (`protocol.trust_roles`) ─► switch

Devices obey the keys of role `fleet` and no others, so this file alone makes no instruction: an offline key says which key
counts, and takes it back. A stolen key is answered by the same steps, with a ceremony that names the next key alone; a lost one by
a new one, which is made where there is none. Read anew when it changes: commands switch it while the fleet runs. Fleets
that share a database share this file.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from fleet.errors import ConflictError
from protocol.errors import IdentityError
from protocol.identity import load_private_key, private_key_pem, public_key_pem
from runtime.durable_files import private_directory, read_bytes, replace_file, write_durably
from runtime.errors import SettingsError, StorageError

__all__ = ["InstructionKey"]

FILE: Final = "instruction.key"
NEXT_FILE: Final = "instruction-next.key"

LOOKS_EVERY_S: Final = 1.0
"""How often it is looked whether the file has changed: thousands of acknowledgements are sealed a second."""

_Mark = tuple[int, int, int]


class InstructionKey:
    """The key whose files lie in one folder; may be asked by several threads.

    Raises:
        SettingsError: a file is no such key.
        StorageError: it can be neither read nor written.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._next_file = folder / FILE, folder / NEXT_FILE
        _make_where_missing(self._file)
        self._read, self._looked_s = self._load(), time.monotonic()

    def current(self) -> ec.EllipticCurvePrivateKey:
        """The key that seals now; the last one that could be read, should the file be gone or damaged meanwhile."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOKS_EVERY_S:
            self._looked_s = now_s
            if _mark(self._file) not in {None, self._read[0]}:
                self._read = self._load()
        return self._read[1]

    def public_halves(self) -> str:
        """PEM of the key that seals now and, where it was made, of the next one; raises as above."""
        keys = [self.current(), *([_parse(self._next_file)] if read_bytes(self._next_file) else [])]
        return "".join(public_key_pem(key.public_key()).decode() for key in keys)

    def rotate(self) -> str:
        """Make the next key; it seals nothing before `switch`. Again: nothing changes. Returns its public half, PEM."""
        _make_where_missing(self._next_file)
        return public_key_pem(_parse(self._next_file).public_key()).decode()

    def following(self) -> ec.EllipticCurvePublicKey:
        """The public half of the next key.

        Raises:
            ConflictError: there is no next key.
        """
        if read_bytes(self._next_file) is None:
            raise ConflictError(
                "there is no next instruction key; make it with: fedge-fleet instruction-key rotate"
            )
        return _parse(self._next_file).public_key()

    def switch(self) -> None:
        """From now on the next key seals, and the former one is destroyed; raises ConflictError as `following`."""
        self.following()
        replace_file(self._next_file, self._file)
        self._read = self._load()

    def _load(self) -> tuple[_Mark | None, ec.EllipticCurvePrivateKey]:
        return _mark(self._file), _parse(self._file)


def _make_where_missing(path: Path) -> None:
    if read_bytes(path) is not None:
        return
    content = private_key_pem(ec.generate_private_key(ec.SECP256R1()))
    try:
        # of a server and a command that both make it, one is refused here and goes on with the other's
        write_durably(private_directory(path.parent) / path.name, content, mode=0o600, exclusive=True)
    except StorageError:
        if read_bytes(path) is None:
            raise


def _parse(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        return load_private_key(read_bytes(path) or b"")
    except IdentityError as error:
        raise SettingsError(
            f"{path} is not the fleet's instruction key: {error}; restore it from a backup, or move it away: a new one is made,"
            " and no device obeys it before a ceremony has named it"
        ) from None


def _mark(path: Path) -> _Mark | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
