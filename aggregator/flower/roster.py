"""Which devices may join rounds: device id ↔ public key ↔ Flower node, kept on disk.

The caller decides who is in (it reads the fleet's list); Flower only ever sees keys that were put here. Flower
forbids registering a key again once its node was deleted, so nodes are never deleted: a device that leaves keeps its node and loses
its place here, and `find` is asked on every request (`door`).

Invariants: one key belongs to one device and the reverse; the file is the whole roster, replaced atomically.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from aggregator.errors import RosterError
from protocol.errors import ProtocolError
from protocol.identity import fingerprint, load_public_key, public_key_pem
from protocol.names import DeviceId, check_name
from runtime.durable_files import write_durably
from runtime.errors import StorageError

__all__ = ["Member", "Roster"]

REMEDY: Final = "remove it and it is written anew from the fleet's list"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A device that is let in: its key, and its node in Flower's database."""

    device: DeviceId
    key: ec.EllipticCurvePublicKey
    node_id: int


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    public_key: str
    node_id: int


class _RosterFile(msgspec.Struct, frozen=True, kw_only=True):
    format: int = 1
    devices: dict[str, _Entry] = {}


class Roster:
    """The devices that may take part. Safe to use from several threads.

    Args:
        path: the roster file; its directory exists. A missing file is an empty roster.
        node_of_key: gives the Flower node of a PEM key, registering it where it has none.

    Raises:
        RosterError: the file is there but cannot be read.
    """

    def __init__(self, path: Path, node_of_key: Callable[[bytes], int]) -> None:
        self._path, self._node_of_key = path, node_of_key
        self._lock = threading.Lock()
        try:
            self._publish(_read(path).devices)
        except ProtocolError as error:
            raise RosterError(f"roster file {path} cannot be read: {error}; {REMEDY}") from None

    def sync(self, public_keys: Mapping[DeviceId, bytes]) -> None:
        """Make exactly these devices the roster, durably.

        Args:
            public_keys: device id → SubjectPublicKeyInfo PEM of its P-256 key.

        Raises:
            RosterError: a bad name or key, or one key for two devices; the roster is as before.
        """
        with self._lock:
            after = {str(device): self._entry(device, pem) for device, pem in sorted(public_keys.items())}
            _check_distinct(after)
            if after != self._entries:
                self._keep(after)
                self._publish(after)

    def dismiss(self, devices: Collection[DeviceId]) -> None:
        """Take these out, durably; raises RosterError, and the roster is as before."""
        with self._lock:
            after = {device: entry for device, entry in self._entries.items() if device not in devices}
            if after != self._entries:
                self._keep(after)
                self._publish(after)

    def find(self, key_fingerprint: str) -> Member | None:
        """Whose key has this fingerprint; None for a stranger's."""
        return self._members.get(key_fingerprint)

    def device_of_node(self, node_id: int) -> DeviceId | None:
        """The device behind a Flower node, or None where it is no longer in the roster."""
        return self._device_of_node.get(node_id)

    def node_of(self, device: DeviceId) -> int | None:
        """The Flower node of a device, or None where it is not in the roster."""
        entry = self._entries.get(device)
        return None if entry is None else entry.node_id

    def devices(self) -> tuple[DeviceId, ...]:
        """Everybody in the roster, in order."""
        return tuple(DeviceId(device) for device in self._entries)

    def _entry(self, device: str, pem: bytes) -> _Entry:
        try:
            check_name(device, "device")
            # Written back in one form: Flower compares keys byte by byte.
            canonical = public_key_pem(load_public_key(pem))
        except ProtocolError as error:
            raise RosterError(f"device {device[:80]!r} cannot be in the roster: {error}") from None
        return _Entry(public_key=canonical.decode("ascii"), node_id=self._node_of_key(canonical))

    def _keep(self, entries: dict[str, _Entry]) -> None:
        try:
            write_durably(self._path, msgspec.json.encode(_RosterFile(devices=entries)))
        except StorageError as error:
            raise RosterError(f"roster file {self._path} cannot be written: {error}") from None

    def _publish(self, entries: Mapping[str, _Entry]) -> None:
        # Whole dictionaries are swapped, so that requests read without a lock.
        self._entries = dict(entries)
        self._members = {
            fingerprint(key := load_public_key(entry.public_key.encode())): Member(
                device=DeviceId(device), key=key, node_id=entry.node_id
            )
            for device, entry in entries.items()
        }
        self._device_of_node = {e.node_id: DeviceId(d) for d, e in entries.items()}


def _check_distinct(entries: Mapping[str, _Entry]) -> None:
    owner: dict[str, str] = {}
    for device, entry in entries.items():
        if (other := owner.setdefault(entry.public_key, device)) != device:
            raise RosterError(
                f"devices {other!r} and {device!r} have the same public key; each needs its own"
            )


def _read(path: Path) -> _RosterFile:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_RosterFile)
    except FileNotFoundError:
        return _RosterFile()
    except (OSError, msgspec.DecodeError) as error:
        raise RosterError(f"roster file {path} cannot be read: {error}; {REMEDY}") from None
