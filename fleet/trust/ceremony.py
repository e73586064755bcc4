"""A change on its way through people's hands: a folder that is prepared, carried, signed on several machines, and published.

::

    prepare (fleet's machine, public keys only) ─► change/ ─┬─► alice: sign ─┬─► assemble ─► publish (fleet's machine)
        2.root.json   5.targets.json                        └─► bob:   sign ─┘
        before/1.root.json  before/4.targets.json  ...

`before` is what is published, so that who signs is told what changes, and so that nobody needs the network to sign. Signatures
are only ever added. The folder holds no secret: who alters it makes it worthless, as what is signed then no longer fits. Who
prepares it may be a thief: what it could say and the words of it would not tell is refused where it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.exceptions import UnverifiedSignatureError
from tuf.api.metadata import Key, Metadata, Root, Targets

from fleet.errors import ConflictError, UnacceptableError
from fleet.trust.metadata import SigningKey, encode, public_key, read_metadata, sign, signers_of
from fleet.trust.published import Published, check_content, split_name
from runtime.durable_files import private_directory, read_bytes, write_durably
from runtime.errors import SettingsError, StorageError

__all__ = ["Change", "Missing", "assemble", "copy_change", "read_change", "save_signatures", "write_change"]

BEFORE = "before"
AnyMetadata = Metadata[Root] | Metadata[Targets]


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Signatures that `name` still needs: `count` of the `keys`, by `whose` word."""

    name: str
    count: int
    keys: tuple[Key, ...]
    whose: str


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change and what it builds on: role → metadata. Empty `before` for a repository that is made."""

    files: Mapping[str, AnyMetadata]
    before: Mapping[str, AnyMetadata]

    @property
    def contents(self) -> dict[str, bytes]:
        """The files by the names under which they are published."""
        return {
            f"{metadata.signed.version}.{role}.json": encode(metadata)
            for role, metadata in self.files.items()
        }

    def missing(self) -> list[Missing]:
        """What must still be signed before it can be published; an invalid signature counts for nothing."""
        return [missing for role in self.files for missing in self._missing(role)]

    def sign(self, key: SigningKey) -> list[str]:
        """Add this key's signature wherever it counts; returns the roles that it signed.

        Raises:
            UnacceptableError: it counts nowhere.
        """
        keyid = public_key(key.public_key()).keyid
        signed = []
        for role, metadata in self.files.items():
            if any(keyid in {one.keyid for one in keys} for _, keys in self.counting(role)):
                sign(metadata, key)
                signed.append(role)
        if not signed:
            who = ", ".join(
                sorted({one.keyid[:16] for role in self.files for _, ks in self.counting(role) for one in ks})
            )
            raise UnacceptableError(
                f"the key {keyid[:16]} signs nothing in this change; those that do: {who}"
            )
        return signed

    def counting(self, role: str) -> Iterator[tuple[Root | Targets, list[Key]]]:
        """Each whose word `role` needs, with the keys that it names for it."""
        for delegator in self._delegators(role):
            try:
                found = delegator.get_delegated_role(role)
            except ValueError:
                continue
            yield delegator, [delegator.get_key(keyid) for keyid in found.keyids]

    def _delegators(self, role: str) -> Iterator[Root | Targets]:
        """The root before and the new one for a root; for the rest, the newest that is above it."""
        above = Root.type if role in {Root.type, Targets.type} else Targets.type
        newest = self.files.get(above) or self.before.get(above)
        if role == Root.type and Root.type in self.before:
            yield self.before[Root.type].signed
        if newest is not None:
            yield newest.signed

    def _missing(self, role: str) -> Iterator[Missing]:
        metadata = self.files[role]
        for delegator, keys in self.counting(role):
            signed, needed = signers_of(metadata, delegator, role)
            if signed < needed:
                is_former = role == Root.type and delegator is not metadata.signed
                yield Missing(
                    name=f"{metadata.signed.version}.{role}.json",
                    count=needed - signed,
                    keys=tuple(key for key in keys if not _has_signed(metadata, key)),
                    whose="the keys so far" if is_former else "the keys named for it",
                )


def _has_signed(metadata: AnyMetadata, key: Key) -> bool:
    try:
        key.verify_signature(metadata.signatures[key.keyid], metadata.signed_bytes)
    except (KeyError, UnverifiedSignatureError):
        return False
    return True


def write_change(folder: Path, files: Mapping[str, bytes], before: Published | None) -> None:
    """Write a prepared change into a new folder, with what it builds on.

    Raises:
        SettingsError: the folder exists.
        StorageError: it cannot be written.
    """
    known: dict[str, AnyMetadata] = (
        {Root.type: before.root, Targets.type: before.targets, **before.roles} if before else {}
    )
    _write_all(folder, files)
    _write_all(folder / BEFORE, _by_name(known))


def copy_change(folder: Path, change: Change) -> None:
    """Write a change into a new folder; raises as `write_change`."""
    _write_all(folder, change.contents)
    _write_all(folder / BEFORE, _by_name(change.before))


def save_signatures(folder: Path, change: Change) -> None:
    """Write the files of a change over those in its folder; raises StorageError."""
    for name, content in change.contents.items():
        write_durably(folder / name, content)


def read_change(folder: Path) -> Change:
    """Read a change's folder.

    Raises:
        SettingsError: there is none, or a file in it is none of a change.
        UnacceptableError: it says what nobody should sign (`fleet.trust.published.check_content`).
    """
    try:
        found = Change(files=_read_all(folder), before=_read_all(folder / BEFORE))
    except (OSError, StorageError, UnacceptableError) as error:
        raise SettingsError(f"{folder} is no change that was prepared here: {error}") from None
    if not found.files:
        raise SettingsError(f"{folder} is no change: it holds no file like 2.root.json or 5.targets.json")
    for role, metadata in found.files.items():
        check_content(role, metadata.signed)
    return found


def assemble(changes: Iterable[Change]) -> Change:
    """One change with the signatures of all, which must be of the same content.

    Raises:
        ConflictError: two of them say different things.
    """
    first, *others = changes
    for other in others:
        if set(other.contents) != set(first.contents):
            raise ConflictError("the folders are of different changes; sign copies of one prepared folder")
        for role, metadata in first.files.items():
            if other.files[role].signed_bytes != metadata.signed_bytes:
                raise ConflictError(
                    f"{metadata.signed.version}.{role}.json says different things in two folders: one was altered, or prepared anew;"
                    " start again from one prepared folder"
                )
            for _, keys in first.counting(role):
                for key in keys:
                    if _has_signed(other.files[role], key):
                        metadata.signatures[key.keyid] = other.files[role].signatures[key.keyid]
    return first


def _by_name(files: Mapping[str, AnyMetadata]) -> dict[str, bytes]:
    return {f"{metadata.signed.version}.{role}.json": encode(metadata) for role, metadata in files.items()}


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    if folder.exists():
        raise SettingsError(f"{folder} exists; a change goes into a new folder")
    private_directory(folder)
    for name, content in files.items():
        write_durably(folder / name, content)


def _read_all(folder: Path) -> dict[str, AnyMetadata]:
    found: dict[str, AnyMetadata] = {}
    for path in sorted(folder.glob("*.json")):
        number, role = split_name(path.name)
        content = read_bytes(path) or b""
        metadata: AnyMetadata = (
            read_metadata(content, Root, path.name)
            if role == Root.type
            else read_metadata(content, Targets, path.name)
        )
        if metadata.signed.version != number or role in found:
            raise UnacceptableError(f"{path.name} says version {metadata.signed.version}, or is there twice")
        found[role] = metadata
    return found
