"""The keys that sign snapshot and timestamp while nobody looks: files on the fleet's machine, named by their ids.

They only say what is newest. Who steals them can hide a new release or offer an old one that is listed still, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tuf.api.metadata import Metadata, Root, Snapshot, Timestamp

from fleet.errors import UnacceptableError
from fleet.trust.key_files import load_private_key, write_private_key
from fleet.trust.metadata import public_key, sign
from runtime.durable_files import private_directory
from runtime.errors import StorageError

__all__ = ["OnlineKeys"]

T = TypeVar("T", Snapshot, Timestamp)


class OnlineKeys:
    """The folder ``<data_dir>/trust/keys``; made by the first key."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def make(self) -> list[Ed25519PublicKey]:
        """New keys for snapshot and timestamp, which count once a root names them; returns their public halves."""
        keys = [Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()]
        for key in keys:
            self.keep(key)
        return [key.public_key() for key in keys]

    def keep(self, key: Ed25519PrivateKey) -> None:
        """Store a key durably, mode 0600; again: nothing changes."""
        path = self._path(public_key(key.public_key()).keyid)
        if not path.exists():
            private_directory(self._directory)
            write_private_key(path, key, passphrase=None)

    def sign(self, metadata: Metadata[T], root: Root) -> Metadata[T]:
        """Sign with the keys that `root` names.

        Raises:
            UnacceptableError: they are not here.
        """
        role = root.roles[metadata.signed.type]
        here = [path for keyid in role.keyids if (path := self._path(keyid)).exists()]
        if len(here) < role.threshold:
            named = ", ".join(keyid[:12] + "…" for keyid in role.keyids)
            raise UnacceptableError(
                f"root names {named} for {metadata.signed.type}, and no such private key is in {self._directory};"
                " restore it from a backup, or make new ones: fedge-fleet trust rotate online"
            )
        return sign(metadata, *(load_private_key(path, None) for path in here))

    def destroy(self, keyids: Iterable[str]) -> None:
        """Remove these keys where they are here; raises StorageError for one that must be removed by hand."""
        for keyid in keyids:
            try:
                self._path(keyid).unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(
                    f"cannot remove {self._path(keyid)}: {error.strerror}; remove it by hand"
                ) from None

    def _path(self, keyid: str) -> Path:
        return self._directory / f"{keyid}.key"
