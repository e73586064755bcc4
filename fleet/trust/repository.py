"""The repository on disk: what devices are served, published whole or not at all, renewed by the fleet's online keys.

::

    <data_dir>/trust/
      lock                     one writer at a time, whichever process it is in
      pending.json             a publication that has begun: the commit point; applied again until it is wholly there
      keys/<key id>.key        snapshot's and timestamp's private keys, mode 0600
      metadata/
        1.root.json, 2.root.json ...        every root, for devices that were away
        <n>.snapshot.json, <n>.targets.json, <n>.<role>.json
        timestamp.json         names the snapshot, which names everything else

A publication is made in memory, checked by a real client that has the state before it (`fleet.trust.rehearsal`), written
as one file, and only then spread over the names that devices ask for, timestamp last. So a kill at any point leaves the
old state or the new one, and two processes never interleave.

Versions of snapshot and timestamp follow the clock (`fleet.desired.next_counter`): a fleet that was restored from an old
backup is still ahead of what its devices have seen.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from fleet.desired import next_counter
from fleet.errors import NotFoundError, UnacceptableError
from fleet.trust.metadata import (
    LIFETIME_S,
    encode,
    expiry,
    read_metadata,
    remaining_s,
    signers_of,
)
from fleet.trust.online_keys import OnlineKeys
from fleet.trust.published import NAME, Published, check_publication, rewritten, split_name
from fleet.trust.rehearsal import check_devices_follow
from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import StorageError

__all__ = ["TrustRepository"]

T = TypeVar("T", Root, Targets, Snapshot, Timestamp)

PENDING: Final = "pending.json"
TIMESTAMP: Final = "timestamp.json"
KEPT: Final = 16
"""Files of one role that are kept."""


class TrustRepository:
    """One repository; safe to use from several threads and processes.

    Args:
        directory: ``<data_dir>/trust``; made by whatever writes first.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._metadata = directory / "metadata"
        self.online_keys = OnlineKeys(directory / "keys")

    @property
    def exists(self) -> bool:
        """Whether a first publication was made."""
        return (self._metadata / TIMESTAMP).exists()

    def read(self, name: str) -> bytes:
        """A file as devices get it.

        Raises:
            NotFoundError: there is none of this name, or it is no name of one.
            StorageError: it cannot be read.
        """
        content = read_bytes(self._metadata / name) if NAME.fullmatch(name) else None
        if content is None:
            raise NotFoundError(f"the repository has no file {name[:100]!r}")
        return content

    def published(self) -> Published:
        """What is published now.

        Raises:
            NotFoundError: nothing was published yet.
            StorageError: the disk holds something else than what was published.
        """
        found = self._load()
        if found is None:
            raise NotFoundError(
                "this fleet has no signed repository yet; make one with: fedge-fleet trust init (docs/releases.md)"
            )
        return found

    def destroy_former_keys(self) -> None:
        """Remove the online keys that a former root named and the present one does not; raises StorageError."""
        with self._locked():
            found = self._load()
            if found is None:
                return
            roots = (
                self._read(f"{number}.root.json", Root) for number in range(1, found.root.signed.version)
            )
            former = {keyid for root in roots for keyid in root.signed.keys}
            self.online_keys.destroy(former - found.root.signed.keys.keys())

    def publish(
        self,
        files: Mapping[str, bytes],
        now: float,
        *,
        check: Callable[[Published | None, Published], None] = lambda _before, _after: None,
    ) -> Published:
        """Publish new roots, targets and lists by their names, with a new snapshot and timestamp.

        Args:
            files: name → content, e.g. ``2.root.json``, ``5.targets.json``, ``9.family-motor.json``.
            now: Unix seconds.
            check: refuses the step from what is published to what would be, while nobody else publishes.

        Raises:
            UnacceptableError: a name or file that is none, too few signatures, an expiry in the past, or anything else
                that a device would refuse; nothing was changed.
            ConflictError: a version that is not newer than the published one.
            StorageError: it could not be written; the old state stands, or the new one comes at the next start.
        """
        files = {name: rewritten(name, content) for name, content in files.items()}
        with self._locked():
            before = self._load()
            after = check_publication(files, before, now)
            check(before, after)
            return self._commit(files, after, now, before=before)

    def renew(self, now: float) -> bool:
        """Finish what was begun, and sign snapshot and timestamp anew where half of their time is over; whether it did.

        Raises:
            UnacceptableError: the keys that root names for it are not here.
            StorageError: as `publish`.
        """
        with self._locked():
            found = self._load()
            if found is None or not self._is_due(found, now):
                return False
            self._commit({}, found, now)
            return True

    def _is_due(self, found: Published, now: float) -> bool:
        return (
            found.snapshot is None
            or found.timestamp is None
            or _is_old(found.snapshot, found.root.signed, now)
            or _is_old(found.timestamp, found.root.signed, now)
        )

    def _commit(
        self, files: Mapping[str, bytes], after: Published, now: float, *, before: Published | None = None
    ) -> Published:
        snapshot = after.snapshot
        if files or snapshot is None or _is_old(snapshot, after.root.signed, now):
            snapshot = self._next_snapshot(after, now)
        timestamp = self._next_timestamp(after, snapshot, now)
        made = {
            **files,
            f"{snapshot.signed.version}.snapshot.json": encode(snapshot),
            TIMESTAMP: encode(timestamp),
        }
        if files:
            check_devices_follow(self._served(before), made, _one_target_of_each(files, after))
        private_directory(self._metadata)
        write_durably(self.directory / PENDING, msgspec.json.encode(made))
        self._finish()
        return self.published()

    def _next_snapshot(self, after: Published, now: float) -> Metadata[Snapshot]:
        known = after.snapshot.signed.version if after.snapshot else 0
        lists = {Targets.type: after.targets, **after.roles}
        meta = {f"{role}.json": MetaFile(metadata.signed.version) for role, metadata in lists.items()}
        made = Snapshot(next_counter(known, now), expires=expiry(now, LIFETIME_S[Snapshot.type]), meta=meta)
        return self.online_keys.sign(Metadata(made), after.root.signed)

    def _next_timestamp(
        self, after: Published, snapshot: Metadata[Snapshot], now: float
    ) -> Metadata[Timestamp]:
        known = after.timestamp.signed.version if after.timestamp else 0
        made = Timestamp(
            next_counter(known, now),
            expires=expiry(now, LIFETIME_S[Timestamp.type]),
            snapshot_meta=MetaFile.from_data(snapshot.signed.version, encode(snapshot), ["sha256"]),
        )
        return self.online_keys.sign(Metadata(made), after.root.signed)

    def _served(self, found: Published | None) -> dict[str, bytes]:
        """Every file that a device may ask for now."""
        if found is None or found.timestamp is None or found.snapshot is None:
            return {}
        names = [f"{number}.root.json" for number in range(1, found.root.signed.version + 1)]
        names += [
            TIMESTAMP,
            f"{found.snapshot.signed.version}.snapshot.json",
            f"{found.targets.signed.version}.targets.json",
            *(f"{metadata.signed.version}.{role}.json" for role, metadata in found.roles.items()),
        ]
        return {name: content for name in names if (content := read_bytes(self._metadata / name)) is not None}

    def _load(self) -> Published | None:
        if not self.exists:
            return None
        number = 1
        while (self._metadata / f"{number + 1}.root.json").exists():
            number += 1
        root = self._read(f"{number}.root.json", Root)
        timestamp = self._read(TIMESTAMP, Timestamp)
        snapshot = self._read(f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot)
        versions = {name.removesuffix(".json"): meta.version for name, meta in snapshot.signed.meta.items()}
        lists = {role: self._read(f"{version}.{role}.json", Targets) for role, version in versions.items()}
        targets = lists.pop(Targets.type)
        return Published(root=root, targets=targets, roles=lists, snapshot=snapshot, timestamp=timestamp)

    def _read(self, name: str, kind: type[T]) -> Metadata[T]:
        try:
            return read_metadata(self.read(name), kind, name)
        except (NotFoundError, UnacceptableError) as error:
            raise StorageError(
                f"{self._metadata / name} is not what was published: {error}; restore {self.directory} from a backup"
            ) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else writes meanwhile; what another one began before it was killed is finished first."""
        private_directory(self.directory)
        try:
            lock = (self.directory / "lock").open("ab")
        except OSError as error:
            raise StorageError(f"cannot lock {self.directory}: {error.strerror or error}") from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._finish()
            yield

    def _finish(self) -> None:
        """Spread the pending publication over its names; doing so again changes nothing."""
        content = read_bytes(self.directory / PENDING)
        if content is None:
            return
        try:
            files = msgspec.json.decode(content, type=dict[str, bytes])
        except msgspec.DecodeError as error:
            raise StorageError(
                f"{self.directory / PENDING} is damaged: {error}; restore it from a backup"
            ) from None
        # what a device asks for first is written last
        for name in sorted(files, key=lambda name: (name == TIMESTAMP, name.endswith(".root.json"), name)):
            write_durably(self._metadata / name, files[name])
        try:
            (self.directory / PENDING).unlink()
            self._forget_old()
        except OSError as error:
            raise StorageError(f"cannot tidy {self.directory}: {error.strerror or error}") from None

    def _forget_old(self) -> None:
        """Of each role but root, only the newest files stay: enough for a device in the middle of asking."""
        found: dict[str, list[int]] = {}
        for path in self._metadata.glob("[1-9]*.json"):
            number, role = path.name.removesuffix(".json").split(".", 1)
            found.setdefault(role, []).append(int(number))
        for role, numbers in found.items():
            if role != Root.type:
                for old in sorted(numbers)[:-KEPT]:
                    (self._metadata / f"{old}.{role}.json").unlink()


def _is_old(metadata: Metadata[T], root: Root, now: float) -> bool:
    """Whether half of its time is over, its key is another now, or it ends later than it could: a wrong clock signed it."""
    role = metadata.signed.type
    lifetime_s, left = LIFETIME_S[role], remaining_s(metadata.signed, now)
    return not lifetime_s / 2 < left <= lifetime_s + 1 or signers_of(metadata, root, role)[0] == 0


def _one_target_of_each(files: Mapping[str, bytes], after: Published) -> dict[str, str]:
    """Of each list among `files` that is not empty: its role, and a target that a device can ask for."""
    roles = {split_name(name)[1] for name in files} & after.roles.keys()
    return {
        role: next(iter(listed)) for role in sorted(roles) if (listed := after.roles[role].signed.targets)
    }
